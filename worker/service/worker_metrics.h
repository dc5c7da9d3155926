// Carries the engine's totals into the worker's metrics page, one snapshot at a time, so that sums
// hold on every scrape.
#pragma once

#include <map>
#include <string>

#include "base/metrics.h"
#include "metrics_registry.h"
#include "worker/engine/engine_stats.h"

namespace facet::worker {

struct MetricLabels {
  std::string pool;
  std::string model;
  std::string device_class;
  std::string worker;
};

class WorkerMetricsFeed {
 public:
  WorkerMetricsFeed(MetricsPage<WorkerMetrics>& page,
                    const MetricLabels& labels,
                    double price_usd_per_hour);

  // One caller at a time; totals never go back.
  void Update(const EngineStats& stats);

 private:
  MetricsPage<WorkerMetrics>& page_;
  const MetricLabels labels_;
  const double price_usd_per_hour_;
  EngineStats last_;
};

}  // namespace facet::worker
