// Included first into the sources that planted_bugs.py writes.
#pragma once

#include <cstdlib>

namespace facet::kernels {

// The one bug in force: FACET_PLANTED_BUG in the environment, counted from 1 as in planted_bugs.py.
inline bool PlantedBug(int number) {
  static const int kActive = [] {
    const char* text = std::getenv("FACET_PLANTED_BUG");
    return text == nullptr ? 0 : std::atoi(text);
  }();
  return number == kActive;
}

}  // namespace facet::kernels
