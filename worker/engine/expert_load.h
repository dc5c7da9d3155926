// When sums of expert choices may be shown. Which experts a token chose says much about the token
// (reference: reliability.md 5.6), so nobody sees a sum before a minute, 100,000 tokens and eight
// tenants are in it; until then the last one stands, and two that follow each other differ by as
// much. Nothing of it is kept for a request.
//
// One of the engine's thread.
#pragma once

#include <cstdint>
#include <set>
#include <string>

namespace facet::worker {

class ExpertLoadGate {
 public:
  static constexpr int64_t kWindowNsMin = 60'000'000'000;
  static constexpr int64_t kTokensMin = 100'000;
  static constexpr size_t kTenantsMin = 8;

  explicit ExpertLoadGate(int64_t now_ns) : window_start_ns_(now_ns) {}

  // Tokens of this tenant are in the step that is about to begin.
  void Count(const std::string& tenant, int64_t num_tokens) {
    num_tokens_ += num_tokens;
    if (tenants_.size() < kTenantsMin) tenants_.insert(tenant);
  }

  // Whether the sums may be taken as they are after the step that was counted last. Then the next
  // window has begun.
  bool Open(int64_t now_ns) {
    if (now_ns - window_start_ns_ < kWindowNsMin || num_tokens_ < kTokensMin ||
        tenants_.size() < kTenantsMin) {
      return false;
    }
    window_start_ns_ = now_ns;
    num_tokens_ = 0;
    tenants_.clear();
    return true;
  }

 private:
  int64_t window_start_ns_;
  int64_t num_tokens_ = 0;
  std::set<std::string> tenants_;
};

}  // namespace facet::worker
