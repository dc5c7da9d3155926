#include "text/python_text.h"

#include <array>
#include <charconv>
#include <cstdlib>

#include "base/status.h"
#include "text/utf8.h"

namespace facet {
namespace {

// repr(float): the shortest digits that read back as the same value, in scientific form only below
// 1e-4 and from 1e16 on.
std::string FloatRepr(double value) {
  std::array<char, 40> buffer{};
  const auto end =
      std::to_chars(buffer.begin(), buffer.end(), value, std::chars_format::scientific).ptr;
  const std::string_view text(buffer.data(), static_cast<size_t>(end - buffer.data()));
  const size_t e = text.find('e');
  if (e == text.npos) return std::string(text);  // inf and nan, which JSON cannot hold.
  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') digits += c;
  }
  const int exponent = std::atoi(text.data() + e + 1);
  std::string result = text[0] == '-' ? "-" : "";
  const auto num_digits = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    result += digits[0];
    if (num_digits > 1) result.append(".").append(digits, 1);
    const std::string power = std::to_string(std::abs(exponent));
    return StrCat(result, exponent < 0 ? "e-" : "e+", power.size() < 2 ? "0" : "", power);
  }
  if (exponent < 0) return StrCat(result, "0.", std::string(-exponent - 1, '0'), digits);
  if (num_digits <= exponent + 1) {
    return StrCat(result, digits, std::string(exponent + 1 - num_digits, '0'), ".0");
  }
  return StrCat(result, digits.substr(0, exponent + 1), ".", digits.substr(exponent + 1));
}

// repr(str), as strings look inside a list. Non-ASCII characters stay as they are, which is what
// Python does with all that are printable.
std::string StringRepr(std::string_view text) {
  const bool has_single = text.find('\'') != text.npos;
  const char quote = has_single && text.find('"') == text.npos ? '"' : '\'';
  static constexpr std::string_view kHex = "0123456789abcdef";
  std::string result(1, quote);
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (c == '\\' || c == quote) {
      result += {'\\', c};
    } else if (c == '\n') {
      result += "\\n";
    } else if (c == '\r') {
      result += "\\r";
    } else if (c == '\t') {
      result += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      result += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    } else {
      result += c;
    }
  }
  return result + quote;
}

std::string Repr(const OrderedJson& value) {
  return value.is_string() ? StringRepr(value.get_ref<const std::string&>()) : PythonStr(value);
}

bool IsPythonSpace(char32_t code) {
  return (code >= 0x09 && code <= 0x0D) || (code >= 0x1C && code <= 0x20) || code == 0x85 ||
         code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
         code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

char32_t Lower(char32_t c) {
  const auto in = [c](char32_t first, char32_t last) { return c >= first && c <= last; };
  if (in('A', 'Z') || (in(0xC0, 0xDE) && c != 0xD7)) return c + 32;
  // Latin Extended-A: upper and lower case alternate, upper on even code points but where noted.
  if (in(0x100, 0x12F) || in(0x132, 0x137) || in(0x14A, 0x177)) return c | 1u;
  if (in(0x139, 0x148) || in(0x179, 0x17E)) return c + (c & 1u);  // Upper on odd ones.
  if (c == 0x178) return 0xFF;
  if (c == 0x386) return 0x3AC;
  if (in(0x388, 0x38A)) return c + 37;
  if (c == 0x38C) return 0x3CC;
  if (in(0x38E, 0x38F)) return c + 63;
  if (in(0x391, 0x3AB) && c != 0x3A2) return c + 32;
  if (in(0x400, 0x40F)) return c + 80;
  if (in(0x410, 0x42F)) return c + 32;
  if (in(0x460, 0x481) || in(0x48A, 0x4BF) || in(0x4D0, 0x52F)) return c | 1u;
  if (in(0x531, 0x556)) return c + 48;
  return c;
}

void AppendUtf8(char32_t code, std::string& text) {
  const auto byte = [](char32_t value) { return static_cast<char>(value); };
  if (code < 0x80) {
    text += byte(code);
  } else if (code < 0x800) {
    text += {byte(0xC0 | code >> 6), byte(0x80 | (code & 0x3F))};
  } else {  // Lower() changes no character beyond these.
    text += {byte(0xE0 | code >> 12), byte(0x80 | (code >> 6 & 0x3F)), byte(0x80 | (code & 0x3F))};
  }
}

}  // namespace

std::string PythonStr(const OrderedJson& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_null()) return "None";
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_number_float()) return FloatRepr(value.get<double>());
  if (!value.is_structured()) return value.dump();
  std::string result;
  for (const auto& [key, item] : value.items()) {
    if (!result.empty()) result += ", ";
    if (value.is_object()) result += StringRepr(key) + ": ";
    result += Repr(item);
  }
  return value.is_object() ? StrCat("{", result, "}") : StrCat("[", result, "]");
}

std::string_view PythonTrim(std::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    if (step.kind != Utf8Step::Kind::kCharacter || !IsPythonSpace(step.code)) break;
    text.remove_prefix(step.length);
  }
  while (!text.empty()) {
    size_t last = text.size() - 1;
    while (last > 0 && IsUtf8Continuation(text[last])) --last;
    const Utf8Step step = NextUtf8(text.substr(last));
    if (step.kind != Utf8Step::Kind::kCharacter || !IsPythonSpace(step.code)) break;
    text.remove_suffix(text.size() - last);
  }
  return text;
}

std::string PythonLower(std::string_view text) {
  std::string lower;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(at));
    const size_t length = step.kind == Utf8Step::Kind::kCharacter ? step.length : 1;
    const char32_t code = Lower(step.code);
    if (step.kind == Utf8Step::Kind::kCharacter && code != step.code) {
      AppendUtf8(code, lower);
    } else {
      lower.append(text, at, length);
    }
    at += length;
  }
  return lower;
}

std::string AsciiUpper(std::string_view text) {
  std::string upper(text);
  for (char& c : upper) {
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  return upper;
}

bool PythonTruth(const OrderedJson& value) {
  if (value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return !value.empty();
}

}  // namespace facet
