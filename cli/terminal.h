// How output looks: colours on a terminal, plain text elsewhere; numbers as people read them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace facet {

enum class Colour { kNone, kDim, kBold, kRed, kGreen, kYellow, kBlue, kMagenta, kCyan };

// Wraps text in escape codes if colours are on.
class Paint {
 public:
  explicit Paint(bool enabled) : enabled_(enabled) {}

  // On if the file descriptor is a terminal and NO_COLOR is unset (no-color.org).
  static Paint ForDescriptor(int descriptor);

  bool enabled() const { return enabled_; }

  std::string operator()(Colour colour, std::string_view text) const;

 private:
  bool enabled_;
};

// "64.0 MiB": powers of 1,024 with at most four digits.
std::string BytesText(int64_t bytes);

// "7,463,013,418".
std::string CountText(int64_t count);

// "7.46 B", "2.0 M": parameters and tokens.
std::string ShortCountText(int64_t count);

// With so many digits after the point.
std::string FixedText(double number, int digits);

// Dollars with enough digits to be non-zero: "$0.0000012".
std::string DollarText(double usd);

// A bar for each value, from 0 to the largest of them.
std::string Sparkline(const std::vector<double>& values);

// Width on a terminal: code points of UTF-8, escape codes not counted.
int DisplayWidth(std::string_view text);

}  // namespace facet
