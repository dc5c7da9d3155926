#include "text/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace facet {

StopMatcher::StopMatcher(const std::vector<std::string>& stops) {
  for (const std::string& stop : stops) {
    if (!stop.empty()) stops_.push_back(MakeStop(stop));
  }
}

StopMatcher::Stop StopMatcher::MakeStop(const std::string& text) {
  Stop stop{.text = text, .borders = std::vector<size_t>(text.size() + 1, 0)};
  size_t border = 0;
  for (size_t i = 1; i < text.size(); ++i) {
    while (border > 0 && text[i] != text[border]) border = stop.borders[border];
    if (text[i] == text[border]) ++border;
    stop.borders[i + 1] = border;
  }
  return stop;
}

void StopMatcher::Advance(Stop& stop, char byte) {
  while (stop.length > 0 && stop.text[stop.length] != byte) stop.length = stop.borders[stop.length];
  if (stop.text[stop.length] == byte) ++stop.length;
}

std::string StopMatcher::Append(std::string_view text) {
  if (matched_) return "";
  for (const char byte : text) {
    held_ += byte;
    const Stop* longest = nullptr;
    for (Stop& stop : stops_) {
      Advance(stop, byte);
      if (stop.length < stop.text.size()) continue;
      if (longest == nullptr || stop.length > longest->length) longest = &stop;
    }
    if (longest != nullptr) {
      matched_ = longest->text;
      held_.resize(held_.size() - longest->length);
      return std::exchange(held_, "");
    }
  }
  size_t keep = 0;
  for (const Stop& stop : stops_) keep = std::max(keep, stop.length);
  std::string free = held_.substr(0, held_.size() - keep);
  held_.erase(0, free.size());
  return free;
}

std::string StopMatcher::Finish() { return std::exchange(held_, ""); }

}  // namespace facet
