#include "base/metrics.h"

#include <prometheus/exposer.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <exception>
#include <limits>

namespace facet {
namespace {

// Lends a page to the library, which asks for a shared owner.
class LentPage final : public prometheus::Collectable {
 public:
  explicit LentPage(const prometheus::Collectable& page) : page_(page) {}

  std::vector<prometheus::MetricFamily> Collect() const override { return page_.Collect(); }

 private:
  const prometheus::Collectable& page_;
};

}  // namespace

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

StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address,
                                                              const prometheus::Collectable& page) {
  try {
    auto exposer = std::make_unique<prometheus::Exposer>(address, /*num_threads=*/1);
    auto lent = std::make_shared<LentPage>(page);
    exposer->RegisterCollectable(lent);
    return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(exposer), std::move(lent)));
  } catch (const std::exception& error) {
    return Unavailable("cannot serve metrics on ", address, ": ", error.what());
  }
}

MetricsServer::MetricsServer(std::unique_ptr<prometheus::Exposer> exposer,
                             std::shared_ptr<prometheus::Collectable> page)
    : page_(std::move(page)),
      exposer_(std::move(exposer)),
      port_(exposer_->GetListeningPorts().front()) {}

MetricsServer::~MetricsServer() = default;

}  // namespace facet
