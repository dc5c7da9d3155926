// Finds stop strings in text that comes in chunks, and lets text go as soon as it cannot be part of
// one. The result does not depend on where the chunks are cut: the stop string that ends first
// wins, and of several that end together the longest.
//
// One object per output, one thread at a time. Work per byte is proportional to the number of stop
// strings (Knuth, Morris, Pratt 1977).
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace facet {

class StopMatcher {
 public:
  // Empty stop strings are ignored.
  explicit StopMatcher(const std::vector<std::string>& stops);

  // The text that can leave now: all that is not the beginning of a stop string, and, once one is
  // complete, what stands before it. Nothing after that.
  std::string Append(std::string_view text);

  // What was held back, when no more text comes.
  std::string Finish();

  // The stop string that was met.
  const std::optional<std::string>& matched() const { return matched_; }

 private:
  struct Stop {
    std::string text;
    std::vector<size_t>
        borders;        // borders[n]: longest proper prefix of text[0, n) that ends it too.
    size_t length = 0;  // How much of text the input ends with.
  };

  static Stop MakeStop(const std::string& text);
  static void Advance(Stop& stop, char byte);

  std::vector<Stop> stops_;
  std::string held_;
  std::optional<std::string> matched_;
};

}  // namespace facet
