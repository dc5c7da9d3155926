// UTF-8, one character at a time. Strict: no surrogates, nothing overlong, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace facet {

// What the bytes at the front of a text are.
struct Utf8Step {
  enum class Kind {
    kCharacter,   // A whole character of `length` bytes, `code`.
    kIncomplete,  // The beginning of a character; more bytes may complete it. Empty text is too.
    kInvalid,     // The first byte belongs to no character.
  };

  Kind kind = Kind::kInvalid;
  size_t length = 0;
  char32_t code = 0;
};

inline Utf8Step NextUtf8(std::string_view text) {
  using Kind = Utf8Step::Kind;
  if (text.empty()) return {.kind = Kind::kIncomplete};
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {.kind = Kind::kCharacter, .length = 1, .code = lead};
  if (lead < 0xC2 || lead > 0xF4) return {.kind = Kind::kInvalid};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The range of the second byte depends on the first (Unicode 15, table 3-7).
  const uint8_t second_min = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t second_max = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  char32_t code = lead & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if (i >= text.size()) return {.kind = Kind::kIncomplete};
    const uint8_t min = i == 1 ? second_min : 0x80;
    const uint8_t max = i == 1 ? second_max : 0xBF;
    if (byte(i) < min || byte(i) > max) return {.kind = Kind::kInvalid};
    code = (code << 6) | (byte(i) & 0x3Fu);
  }
  return {.kind = Kind::kCharacter, .length = length, .code = code};
}

inline bool IsUtf8Continuation(char byte) { return (static_cast<uint8_t>(byte) & 0xC0u) == 0x80; }

// U+FFFD, what stands for a byte that is no character.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

}  // namespace facet
