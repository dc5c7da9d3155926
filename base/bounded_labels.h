// Keeps the values of a metric's label few, whatever clients bring: the first so many stay what
// they are, later ones are counted together. Sums stay right, and a page that is scraped stays
// small.
#pragma once

#include <cstddef>
#include <set>
#include <string>

namespace facet {

class BoundedLabels {
 public:
  static constexpr size_t kValuesMax = 1000;  // "other" included.
  static constexpr char kOther[] = "other";

  // Whether the value may stand for itself; otherwise it is to be counted as kOther. Once admitted,
  // always.
  bool Admit(const std::string& value) {
    if (values_.contains(value)) return true;
    if (values_.size() + 1 >= kValuesMax) return value == kOther;
    values_.insert(value);
    return true;
  }

 private:
  std::set<std::string> values_;
};

}  // namespace facet
