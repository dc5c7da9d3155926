#include "cli/terminal.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "base/status.h"

namespace facet {
namespace {

const char* CodeOf(Colour colour) {
  switch (colour) {
    case Colour::kNone:
      return "";
    case Colour::kDim:
      return "\x1b[2m";
    case Colour::kBold:
      return "\x1b[1m";
    case Colour::kRed:
      return "\x1b[31m";
    case Colour::kGreen:
      return "\x1b[32m";
    case Colour::kYellow:
      return "\x1b[33m";
    case Colour::kBlue:
      return "\x1b[34m";
    case Colour::kMagenta:
      return "\x1b[35m";
    case Colour::kCyan:
      return "\x1b[36m";
  }
  return "";
}

}  // namespace

Paint Paint::ForDescriptor(int descriptor) {
  const char* no_colour = std::getenv("NO_COLOR");
  return Paint(isatty(descriptor) != 0 && (no_colour == nullptr || *no_colour == '\0'));
}

std::string Paint::operator()(Colour colour, std::string_view text) const {
  if (!enabled_ || colour == Colour::kNone || text.empty()) return std::string(text);
  return StrCat(CodeOf(colour), text, "\x1b[0m");
}

std::string BytesText(int64_t bytes) {
  constexpr std::array<const char*, 6> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return StrCat(FixedText(value, unit == 0 ? 0 : 1), " ", kUnits[unit]);
}

std::string CountText(int64_t count) {
  const std::string digits = std::to_string(count);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    const bool group = i > 0 && (digits.size() - i) % 3 == 0 && digits[i - 1] != '-';
    if (group) text += ',';
    text += digits[i];
  }
  return text;
}

std::string ShortCountText(int64_t count) {
  const auto value = static_cast<double>(count);
  if (value >= 1e9) return FixedText(value / 1e9, 2) + " B";
  if (value >= 1e6) return FixedText(value / 1e6, 1) + " M";
  if (value >= 1e3) return FixedText(value / 1e3, 1) + " K";
  return std::to_string(count);
}

std::string FixedText(double number, int digits) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.*f", digits, number);
  return text.data();
}

std::string DollarText(double usd) {
  if (usd == 0) return "$0";
  const int magnitude = static_cast<int>(std::floor(std::log10(std::abs(usd))));
  return StrCat("$", FixedText(usd, std::clamp(1 - magnitude, 2, 12)));
}

std::string Sparkline(const std::vector<double>& values) {
  constexpr const char* kBars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const double largest = values.empty() ? 0 : *std::max_element(values.begin(), values.end());
  std::string out;
  for (const double value : values) {
    out += kBars[largest > 0 ? std::min(7, static_cast<int>(value * 8 / largest)) : 0];
  }
  return out;
}

int DisplayWidth(std::string_view text) {
  int width = 0;
  bool in_escape = false;
  for (const char c : text) {
    if (in_escape) {
      in_escape = c != 'm';
    } else if (c == '\x1b') {
      in_escape = true;
    } else if ((static_cast<unsigned char>(c) & 0xC0) != 0x80) {
      ++width;
    }
  }
  return width;
}

}  // namespace facet
