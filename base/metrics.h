// Metrics as plain numbers behind one lock, exported by prometheus-cpp.
//
// deploy/metrics.yaml lists every metric; from it the build writes metrics_registry.h with the
// structs RouterMetrics and WorkerMetrics. A process owns one page of its struct and changes it in
// groups:
//
//   MetricsPage<WorkerMetrics> page;
//   {
//     auto metrics = page.Write();
//     metrics->device_busy.At(model, tenant, "decode", pool).Add(step_ns);
//     metrics->sequences.At(model, pool, worker, "running").Set(running);
//   }
//   const std::string text = MetricsText(page);  // What GET /metrics answers (base/http_pages.h).
//
// A scrape sees all changes made through one Write(), or none of them, so sums hold on every
// scrape: an engine writes once, at a step's end. Hold the writer for the changes only.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/status.h"

namespace facet {

// Only goes up. Counts in the integer unit of the contract (nanoseconds, nano-USD or ones).
class Counter {
 public:
  void Add(int64_t amount) { value_ += amount; }

  int64_t value() const { return value_; }

 private:
  int64_t value_ = 0;
};

class Gauge {
 public:
  void Set(double value) { value_ = value; }

  void Add(double amount) { value_ += amount; }

  double value() const { return value_; }

 private:
  double value_ = 0;
};

// Counts by bucket, upper bounds inclusive.
class Histogram {
 public:
  explicit Histogram(const std::vector<double>& bounds)
      : bounds_(bounds), counts_(bounds.size() + 1) {}

  void Observe(double value);

  uint64_t count() const { return count_; }

  double sum() const { return sum_; }

  const std::vector<double>& bounds() const { return bounds_; }

  // One count per bound and a last one for what is above; not cumulative.
  const std::vector<uint64_t>& counts() const { return counts_; }

 private:
  std::vector<double> bounds_;
  std::vector<uint64_t> counts_;
  uint64_t count_ = 0;
  double sum_ = 0;
};

// One metric name with its cells by label values. Values that clients bring go through
// BoundedLabels first; as a last resort all label sets after kCellsMax share a cell whose values
// are "other".
template <typename CellType>
class MetricCells {
 public:
  static constexpr size_t kCellsMax = 10'000;

  const std::string& name() const { return name_; }

  const std::map<std::vector<std::string>, CellType, std::less<>>& cells() const { return cells_; }

 protected:
  MetricCells(std::string name, std::string help, std::vector<std::string> labels)
      : name_(std::move(name)), help_(std::move(help)), labels_(std::move(labels)) {}

  CellType& FindOrAdd(std::initializer_list<std::string_view> values, const CellType& fresh) {
    std::vector<std::string> key(values.begin(), values.end());
    if (const auto found = cells_.find(key); found != cells_.end()) return found->second;
    if (cells_.size() >= kCellsMax) key.assign(labels_.size(), "other");
    return cells_.try_emplace(std::move(key), fresh).first->second;
  }

  // A family with name, help, type and one labelled metric per cell, values left empty.
  prometheus::MetricFamily LabelledFamily(prometheus::MetricType type) const;

 private:
  std::string name_;
  std::string help_;
  std::vector<std::string> labels_;
  std::map<std::vector<std::string>, CellType, std::less<>> cells_;
};

class CounterFamily : public MetricCells<Counter> {
 public:
  // Exported values are the counted ones times scale.
  CounterFamily(std::string name, std::string help, std::vector<std::string> labels, double scale)
      : MetricCells(std::move(name), std::move(help), std::move(labels)), scale_(scale) {}

  void CollectInto(std::vector<prometheus::MetricFamily>& out) const;

 protected:
  Counter& Cell(std::initializer_list<std::string_view> values) { return FindOrAdd(values, {}); }

 private:
  double scale_;
};

class GaugeFamily : public MetricCells<Gauge> {
 public:
  GaugeFamily(std::string name, std::string help, std::vector<std::string> labels)
      : MetricCells(std::move(name), std::move(help), std::move(labels)) {}

  void CollectInto(std::vector<prometheus::MetricFamily>& out) const;

 protected:
  Gauge& Cell(std::initializer_list<std::string_view> values) { return FindOrAdd(values, {}); }
};

class HistogramFamily : public MetricCells<Histogram> {
 public:
  HistogramFamily(std::string name,
                  std::string help,
                  std::vector<std::string> labels,
                  const std::vector<double>& bounds)
      : MetricCells(std::move(name), std::move(help), std::move(labels)), fresh_(bounds) {}

  void CollectInto(std::vector<prometheus::MetricFamily>& out) const;

 protected:
  Histogram& Cell(std::initializer_list<std::string_view> values) {
    return FindOrAdd(values, fresh_);
  }

 private:
  Histogram fresh_;
};

// The one owner of a process's metrics; any thread may write.
template <typename Metrics>
class MetricsPage : public prometheus::Collectable {
 public:
  // The struct, locked for as long as the writer lives.
  class Writer {
   public:
    explicit Writer(MetricsPage& page) ABSL_NO_THREAD_SAFETY_ANALYSIS  // The lock is a member.
        : lock_(&page.mutex_),
          metrics_(page.metrics_) {}

    Metrics* operator->() { return &metrics_; }

    Metrics& operator*() { return metrics_; }

   private:
    absl::MutexLock lock_;
    Metrics& metrics_;
  };

  Writer Write() { return Writer(*this); }

  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> out;
    absl::MutexLock lock(&mutex_);
    metrics_.CollectInto(out);
    return out;
  }

 private:
  mutable absl::Mutex mutex_;
  Metrics metrics_ ABSL_GUARDED_BY(mutex_);
};

// The page as Prometheus text, as a scrape sees it.
std::string MetricsText(const prometheus::Collectable& page);

inline constexpr char kMetricsContentType[] = "text/plain; version=0.0.4; charset=utf-8";

}  // namespace facet
