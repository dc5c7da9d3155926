// Requests that wait for a worker of one model: first come, first served within a tenant, and turns
// between tenants, so that one tenant's backlog delays the others by one request each.
//
// The caller bounds the number of items. Owned by the dispatch thread.
#pragma once

#include <cstddef>
#include <deque>
#include <list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace facet::router {

template <typename T>
class FairQueue {
 public:
  bool empty() const { return lines_.empty(); }

  size_t size() const { return size_; }

  void PushBack(std::string_view tenant, T item) {
    LineOf(tenant).items.push_back(std::move(item));
    ++size_;
  }

  // Ahead of the tenant's own items: for one that had its turn but did not start.
  void PushFront(std::string_view tenant, T item) {
    LineOf(tenant).items.push_front(std::move(item));
    ++size_;
  }

  // Whose turn it is. Not to be called when empty.
  T& Front() { return lines_.front().items.front(); }

  // Takes Front; its tenant's next turn is after all others.
  T PopFront() {
    T item = std::move(Front());
    lines_.front().items.pop_front();
    --size_;
    if (lines_.front().items.empty()) {
      lines_.pop_front();
    } else {
      lines_.splice(lines_.end(), lines_, lines_.begin());
    }
    return item;
  }

  // Takes out every item for which leaves(item) is true, in no particular order.
  template <typename Predicate>
  std::vector<T> TakeIf(Predicate leaves) {
    std::vector<T> taken;
    for (auto line = lines_.begin(); line != lines_.end();) {
      std::deque<T> kept;
      for (T& item : line->items) {
        if (leaves(item)) {
          taken.push_back(std::move(item));
        } else {
          kept.push_back(std::move(item));
        }
      }
      line->items = std::move(kept);
      line = line->items.empty() ? lines_.erase(line) : std::next(line);
    }
    size_ -= taken.size();
    return taken;
  }

 private:
  struct Line {
    std::string tenant;
    std::deque<T> items;  // Never empty between calls.
  };

  // Few tenants wait at once, so a list is searched.
  Line& LineOf(std::string_view tenant) {
    for (Line& line : lines_) {
      if (line.tenant == tenant) return line;
    }
    return lines_.emplace_back(Line{std::string(tenant), {}});
  }

  std::list<Line> lines_;  // In the order of turns.
  size_t size_ = 0;
};

}  // namespace facet::router
