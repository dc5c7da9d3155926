#include "text/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace facet {
namespace {

TEST(StopMatcherTest, HoldsBackWhatMayBeginAStop) {
  StopMatcher matcher({"END", "\n\n"});
  EXPECT_EQ(matcher.Append("ab\n"), "ab");
  EXPECT_EQ(matcher.Append("cE"), "\nc");
  EXPECT_EQ(matcher.Append("N"), "");
  EXPECT_EQ(matcher.Append("EN"), "EN");
  EXPECT_EQ(matcher.matched(), std::nullopt);
  EXPECT_EQ(matcher.Append("Dx"), "");
  EXPECT_EQ(matcher.matched(), "END");
  EXPECT_EQ(matcher.Append("more"), "");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcherTest, GivesTheHeldTextAtTheEnd) {
  StopMatcher matcher({"stop"});
  EXPECT_EQ(matcher.Append("it sto"), "it ");
  EXPECT_EQ(matcher.Finish(), "sto");
  EXPECT_EQ(matcher.matched(), std::nullopt);
}

TEST(StopMatcherTest, PrefersTheLongestOfThoseThatEndFirst) {
  StopMatcher matcher({"b", "ab", "abc"});
  EXPECT_EQ(matcher.Append("xabc"), "x");
  EXPECT_EQ(matcher.matched(), "ab");
}

TEST(StopMatcherTest, LetsEverythingPassWithoutStops) {
  StopMatcher matcher({"", ""});
  EXPECT_EQ(matcher.Append("abc"), "abc");
}

// The definition: the end of the first stop string to be complete, then the longest that ends
// there.
std::pair<std::string, std::optional<std::string>> MatchSlowly(
    const std::vector<std::string>& stops, std::string_view text) {
  for (size_t end = 0; end <= text.size(); ++end) {
    std::optional<std::string> longest;
    for (const std::string& stop : stops) {
      if (text.substr(0, end).ends_with(stop) && (!longest || stop.size() > longest->size())) {
        longest = stop;
      }
    }
    if (longest) return {std::string(text.substr(0, end - longest->size())), longest};
  }
  return {std::string(text), std::nullopt};
}

TEST(StopMatcherTest, DoesNotDependOnHowTheTextIsCut) {
  for (uint32_t seed = 1; seed <= 2000; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto letters = [&](size_t max) {
      std::string text;
      for (size_t n = 1 + random() % max; n > 0; --n) text += static_cast<char>('a' + random() % 2);
      return text;
    };
    std::vector<std::string> stops(1 + random() % 3);
    for (std::string& stop : stops) stop = letters(7);
    const std::string text = letters(40);
    StopMatcher matcher(stops);
    std::string out;
    for (size_t at = 0; at < text.size();) {
      const size_t length = 1 + random() % 5;
      out += matcher.Append(std::string_view(text).substr(at, length));
      at += length;
    }
    out += matcher.Finish();
    const auto [want, want_stop] = MatchSlowly(stops, text);
    EXPECT_EQ(out, want) << text;
    EXPECT_EQ(matcher.matched(), want_stop) << text;
  }
}

}  // namespace
}  // namespace facet
