// Time as an interface, so that tests and simulations run the same code on a clock of their own.
#pragma once

#include <cstdint>

namespace facet {

class Clock {
 public:
  virtual ~Clock() = default;

  // Nanoseconds since an arbitrary start; never goes back.
  virtual int64_t NowNs() const = 0;

  // Nanoseconds since the Unix epoch.
  virtual int64_t UnixNs() const = 0;

  // The machine's clock; lives for ever.
  static const Clock& Real();
};

}  // namespace facet
