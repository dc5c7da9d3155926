#include "base/metrics.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <limits>

namespace facet {
void Histogram::Observe(double value) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  ++counts_[static_cast<size_t>(bucket - bounds_.begin())];
  ++count_;
  sum_ += value;
}

template <typename CellType>
prometheus::MetricFamily MetricCells<CellType>::LabelledFamily(prometheus::MetricType type) const {
  prometheus::MetricFamily family;
  family.name = name_;
  family.help = help_;
  family.type = type;
  for (const auto& [values, cell] : cells_) {
    prometheus::ClientMetric& metric = family.metric.emplace_back();
    for (size_t i = 0; i < labels_.size(); ++i) metric.label.push_back({labels_[i], values[i]});
  }
  return family;
}

void CounterFamily::CollectInto(std::vector<prometheus::MetricFamily>& out) const {
  prometheus::MetricFamily family = LabelledFamily(prometheus::MetricType::Counter);
  size_t i = 0;
  for (const auto& [values, cell] : cells()) {
    family.metric[i++].counter.value = static_cast<double>(cell.value()) * scale_;
  }
  out.push_back(std::move(family));
}

void GaugeFamily::CollectInto(std::vector<prometheus::MetricFamily>& out) const {
  prometheus::MetricFamily family = LabelledFamily(prometheus::MetricType::Gauge);
  size_t i = 0;
  for (const auto& [values, cell] : cells()) family.metric[i++].gauge.value = cell.value();
  out.push_back(std::move(family));
}

void HistogramFamily::CollectInto(std::vector<prometheus::MetricFamily>& out) const {
  prometheus::MetricFamily family = LabelledFamily(prometheus::MetricType::Histogram);
  size_t i = 0;
  for (const auto& [values, cell] : cells()) {
    prometheus::ClientMetric::Histogram& histogram = family.metric[i++].histogram;
    histogram.sample_count = cell.count();
    histogram.sample_sum = cell.sum();
    uint64_t cumulative = 0;
    for (size_t bucket = 0; bucket < cell.counts().size(); ++bucket) {
      cumulative += cell.counts()[bucket];
      const double bound = bucket < cell.bounds().size() ? cell.bounds()[bucket]
                                                         : std::numeric_limits<double>::infinity();
      histogram.bucket.push_back({cumulative, bound});
    }
  }
  out.push_back(std::move(family));
}

std::string MetricsText(const prometheus::Collectable& page) {
  return prometheus::TextSerializer().Serialize(page.Collect());
}

}  // namespace facet
