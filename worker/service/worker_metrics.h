// The worker's metrics: each scrape exports one snapshot of the engine's totals, so that sums hold.
#pragma once

#include <prometheus/collectable.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "worker/engine/engine_stats.h"
#include "worker/service/usage_journal.h"

namespace facet::worker {

struct MetricLabels {
  std::string pool;
  std::string model;
  std::string device_class;
  std::string worker;
  double peak_flops = 0;  // Of the device, in a second; 0: not known.
  double peak_bytes_per_second = 0;
  int32_t sequences_max = 0;     // That the engine runs at once.
  std::string certificate_file;  // Of worker_tls; empty: none.
};

// What a scrape sees: nothing until there is an engine to follow, then its totals as they are.
class WorkerMetricsPage final : public prometheus::Collectable {
 public:
  // The sources are called at each scrape, one at a time, until Unfollow() returns.
  void Follow(std::function<EngineStats()> source,
              std::function<UsageJournalStats()> journal,
              const MetricLabels& labels);
  void Unfollow();

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  mutable absl::Mutex mutex_;
  std::function<EngineStats()> source_ ABSL_GUARDED_BY(mutex_);
  std::function<UsageJournalStats()> journal_ ABSL_GUARDED_BY(mutex_);
  MetricLabels labels_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace facet::worker
