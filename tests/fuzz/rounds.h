// What the fuzz programs share: rounds from a seed, and damage to good input.
#pragma once

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <random>
#include <string>

#include "base/status.h"

namespace facet {

using Random = std::mt19937;

inline size_t Below(Random& random, size_t n) { return random() % n; }

// A few bytes changed, dropped, doubled, or replaced by what a parser reacts to.
inline std::string Damage(std::string text, Random& random) {
  static const char* const kBits[] = {"{",   "}",   "[",      "]",    "\"",     ",",    ":",
                                      "\\",  "\\u", "\xC3",   "\xFF", "\uFFFF", "null", "-1",
                                      "1e9", "{}",  "<|\"|>", "\n",   "",       "0",    "true"};
  for (size_t n = Below(random, 4); n > 0; --n) {
    const size_t at = Below(random, text.size() + 1);
    const size_t length = Below(random, 8);
    switch (Below(random, 4)) {
      case 0:
        text.insert(at, kBits[Below(random, std::size(kBits))]);
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(at, text.substr(at, length));
        break;
      default:
        if (at < text.size()) text[at] = static_cast<char>(Below(random, 256));
    }
  }
  return text;
}

template <typename T>
bool IsOkOrInvalid(const StatusOr<T>& result) {
  return result.ok() || result.status().code() == absl::StatusCode::kInvalidArgument;
}

inline unsigned long current_round = 0;

inline void NameTheRound(int /*signal*/) { std::fprintf(stderr, "in round %lu\n", current_round); }

// Runs rounds SEED to SEED + ROUNDS - 1 of a program called as NAME [SEED [ROUNDS]].
template <typename Round>
int RunRounds(const char* name, int argc, char** argv, const Round& run_round) {
  const auto argument = [&](int i, unsigned long fallback) {
    return argc > i ? std::strtoul(argv[i], nullptr, 10) : fallback;
  };
  const unsigned long seed = argument(1, 1);
  const unsigned long rounds = argument(2, 10000);
  std::signal(SIGABRT, NameTheRound);
  for (current_round = seed; current_round < seed + rounds; ++current_round) {
    Random random(static_cast<uint32_t>(current_round));
    try {
      run_round(random);
    } catch (const std::exception& error) {  // Ours let none out: this is a finding too.
      std::fprintf(stderr, "in round %lu: %s\n", current_round, error.what());
      return 1;
    }
  }
  std::printf("%s: rounds %lu to %lu passed\n", name, seed, seed + rounds - 1);
  return 0;
}

}  // namespace facet
