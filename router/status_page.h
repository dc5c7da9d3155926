// The page for people without Grafana, at /status of the metrics address: what the fleet does now
// and has done in the last quarter of an hour. Its data are /status.json.
//
// A thread takes a sample every two seconds. Quantiles are those of the last minute, interpolated
// in the router's own histograms as PromQL does it.
#pragma once

#include <cstdint>
#include <deque>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "base/http_pages.h"
#include "router/router.h"

namespace facet::router {

class StatusPage {
 public:
  static constexpr int64_t kPeriodMs = 2000;
  static constexpr size_t kSamplesMax = 450;  // Fifteen minutes.

  // The router must outlive the page.
  explicit StatusPage(Router& router);
  ~StatusPage();

  static HttpPage Html();

  // {"status": GetStatus as JSON, "history": {name: [a value for each sample, oldest first]},
  // "tenants": [what each used since the router started, the dearest first]}. A value that is not
  // known, such as a quantile of nothing, is null.
  HttpPage Json() const;

  // One sample more; for the thread and for tests.
  void Sample();

 private:
  struct Point {
    int64_t unix_ms = 0;
    int requests_running = 0;
    int requests_queued = 0;
    double prompt_tokens_per_second = 0;
    double output_tokens_per_second = 0;
    double busy_share = 0;     // Mean over the workers reached.
    double kv_used_share = 0;  // Of all KV bytes there are.
    double usd_per_hour = 0;   // Of the workers reached.
    // Observations so far, by bucket.
    std::vector<uint64_t> ttft;
    std::vector<uint64_t> itl;
  };

  void ThreadMain();
  Point Now() const;

  Router& router_;
  mutable absl::Mutex mutex_;
  std::deque<Point> points_ ABSL_GUARDED_BY(mutex_);
  absl::Notification end_;
  std::thread thread_;
};

}  // namespace facet::router
