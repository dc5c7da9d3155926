#pragma once

namespace facet {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace facet
