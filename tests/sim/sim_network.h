// A clock that jumps from event to event, and a network with delays and cut links on it. All that
// happens follows from one seed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <queue>
#include <random>
#include <unordered_map>
#include <utility>
#include <vector>

namespace facet::sim {

constexpr int64_t kNsPerMs = 1'000'000;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  // Both ends included.
  int64_t Between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(engine_() % static_cast<uint64_t>(high - low + 1));
  }

  bool Chance(double share) { return static_cast<double>(engine_() >> 11U) * 0x1p-53 < share; }

 private:
  std::mt19937_64 engine_;
};

class EventQueue {
 public:
  int64_t now_ns() const { return now_ns_; }

  void After(int64_t delay_ns, std::function<void()> run) {
    events_.push({now_ns_ + delay_ns, num_events_++, std::move(run)});
  }

  // False: there is none before end_ns, and it is end_ns now.
  bool RunOne(int64_t end_ns) {
    if (events_.empty() || events_.top().time_ns > end_ns) {
      now_ns_ = end_ns;
      return false;
    }
    now_ns_ = events_.top().time_ns;
    const std::function<void()> run = std::move(const_cast<Event&>(events_.top()).run);
    events_.pop();
    run();
    return true;
  }

 private:
  struct Event {
    int64_t time_ns;
    int64_t number;  // Equal times: first come, first run.
    std::function<void()> run;

    bool operator<(const Event& other) const {
      return std::pair(time_ns, number) > std::pair(other.time_ns, other.number);
    }
  };

  int64_t now_ns_ = kNsPerMs;
  int64_t num_events_ = 0;
  std::priority_queue<Event> events_;
};

// Streams keep their order, as TCP does; what is sent over a cut link arrives after it has healed.
class Network {
 public:
  Network(EventQueue& events, Random& random) : events_(events), random_(random) {}

  void Send(int64_t stream, int32_t from, int32_t to, std::function<void()> arrive) {
    if (const auto cut = cut_.find({from, to}); cut != cut_.end()) {
      cut->second.push_back({stream, std::move(arrive)});
      return;
    }
    const int64_t delay_us =
        random_.Chance(0.02) ? random_.Between(5'000, 60'000) : random_.Between(50, 3'000);
    int64_t& last_ns = last_ns_[stream];
    last_ns = std::max(last_ns, events_.now_ns() + delay_us * 1000);
    events_.After(last_ns - events_.now_ns(), std::move(arrive));
  }

  void Cut(int32_t from, int32_t to) { cut_[{from, to}]; }

  void Heal(int32_t from, int32_t to) {
    const auto cut = cut_.find({from, to});
    if (cut == cut_.end()) return;
    const std::vector<Held> held = std::move(cut->second);
    cut_.erase(cut);
    for (const Held& message : held) Send(message.stream, from, to, message.arrive);
  }

  bool IsCut(int32_t from, int32_t to) const { return cut_.contains({from, to}); }

 private:
  struct Held {
    int64_t stream;
    std::function<void()> arrive;
  };

  EventQueue& events_;
  Random& random_;
  std::unordered_map<int64_t, int64_t> last_ns_;  // When the last message of a stream arrives.
  std::map<std::pair<int32_t, int32_t>, std::vector<Held>> cut_;
};

}  // namespace facet::sim
