// A visitor for std::visit made of one lambda for each alternative.
#pragma once

namespace facet {

template <typename... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};

template <typename... Cases>
Overloaded(Cases...) -> Overloaded<Cases...>;

}  // namespace facet
