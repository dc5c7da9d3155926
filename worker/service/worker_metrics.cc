#include "worker/service/worker_metrics.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/process_stats.h"
#include "metrics_registry.h"
#include "proto/grpc_tls.h"

namespace facet::worker {
namespace {

// The label of cost that no request pays, or null for states that requests do.
const char* IdleReason(DeviceState state) {
  switch (state) {
    case DeviceState::kLoading:
      return "loading";
    case DeviceState::kIdle:
      return "no_demand";
    case DeviceState::kDrain:
      return "drain";
    case DeviceState::kFault:
      return "fault";
    default:
      return nullptr;
  }
}

WorkerMetrics MetricsOf(const EngineStats& stats,
                        const UsageJournalStats& journal,
                        const MetricLabels& labels) {
  const std::string& pool = labels.pool;
  const std::string& model = labels.model;
  const std::string& device_class = labels.device_class;
  const std::string& worker = labels.worker;
  WorkerMetrics metrics;
  ReportProcess("worker", ReadProcessStats(), metrics);
  if (!labels.certificate_file.empty()) {
    const StatusOr<int64_t> expiry = CertificateExpiry(labels.certificate_file);
    if (expiry.ok()) {
      metrics.certificate_expiry.At("worker_tls").Set(static_cast<double>(*expiry));
    }
  }
  metrics.device_held.At(pool, model, device_class, worker).Add(stats.held.ns);
  for (int i = 0; i < kNumDeviceStates; ++i) {
    const auto state = static_cast<DeviceState>(i);
    metrics.device_state.At(pool, model, device_class, worker, NameOf(state))
        .Add(stats.states[i].ns);
    const char* reason = IdleReason(state);
    if (reason == nullptr) continue;
    metrics.idle_cost.At(model, pool, reason).Add(stats.states[i].nano_usd);
  }
  const auto count_work = [&](std::string_view phase, const Work& work) {
    metrics.flops.At(model, pool, phase).Add(std::llround(work.flops / 1e6));
    metrics.hbm_bytes.At(model, pool, phase).Add(std::llround(work.bytes / 1e6));
  };
  count_work("prefill", stats.work.prefill);
  count_work("decode", stats.work.decode);
  if (labels.peak_flops > 0) {
    metrics.peak_flops.At(pool, device_class, worker).Set(labels.peak_flops);
  }
  if (labels.peak_bytes_per_second > 0) {
    metrics.peak_bandwidth.At(pool, device_class, worker).Set(labels.peak_bytes_per_second);
  }
  metrics.device_cost.At(pool, model, device_class, worker).Add(stats.held.nano_usd);
  metrics.device_price.At(pool, device_class, worker)
      .Set(static_cast<double>(stats.nano_usd_per_hour) / 1e9 / 3600);
  metrics.device_borrowed.At(model, pool, worker).Add(stats.borrowed.ns);
  metrics.device_lent.At(model, pool, worker).Add(stats.lent.ns);
  metrics.borrowed_cost.At(model, pool, worker).Add(stats.borrowed.nano_usd);
  metrics.lent_cost.At(model, pool, worker).Add(stats.lent.nano_usd);
  if (stats.step_model_error_ratio > 0) {
    metrics.step_model_error.At(model, pool, worker).Set(stats.step_model_error_ratio);
  }
  if (stats.tenants_as_other > 0) {
    metrics.label_overflow.At("tenant").Add(static_cast<int64_t>(stats.tenants_as_other));
  }
  for (const auto& [tenant, use] : stats.tenants) {
    metrics.device_busy.At(model, tenant, "prefill", pool).Add(use.prefill.ns);
    metrics.device_busy.At(model, tenant, "decode", pool).Add(use.decode.ns);
    metrics.cost.At(model, tenant, "prefill", pool).Add(use.prefill.nano_usd);
    metrics.cost.At(model, tenant, "decode", pool).Add(use.decode.nano_usd);
  }
  for (const auto& [reason, ns] : stats.wasted_ns) {
    metrics.device_wasted.At(model, pool, reason).Add(ns);
  }
  for (const auto& [reason, count] : stats.finished) {
    metrics.sequences_finished.At(model, pool, reason).Add(count);
  }
  for (size_t expert = 0; expert < stats.expert_choices.size(); ++expert) {
    metrics.expert_choices.At(model, pool, worker, std::to_string(expert))
        .Add(stats.expert_choices[expert]);
  }
  const Load& load = stats.load;
  metrics.tokens.At(model, pool, "prompt_computed")
      .Add(static_cast<int64_t>(load.prompt_tokens_total));
  metrics.tokens.At(model, pool, "output").Add(static_cast<int64_t>(load.output_tokens_total));
  metrics.steps.At(model, pool).Add(static_cast<int64_t>(stats.steps));
  metrics.preemptions.At(model, pool).Add(stats.preemptions);
  metrics.sequences.At(model, pool, worker, "running").Set(load.sequences_running);
  metrics.sequences.At(model, pool, worker, "waiting").Set(load.sequences_waiting);
  metrics.sequences_max.At(model, pool, worker).Set(labels.sequences_max);
  metrics.kv_used.At(model, pool, worker).Set(static_cast<double>(load.kv_bytes_used));
  metrics.kv_capacity.At(model, pool, worker).Set(static_cast<double>(load.kv_bytes_total));
  const int64_t lag_ns =
      journal.oldest_unix_ns == 0 ? 0 : Clock::Real().UnixNs() - journal.oldest_unix_ns;
  metrics.usage_unconfirmed.At(pool, worker).Set(static_cast<double>(journal.unconfirmed));
  metrics.usage_lag.At(pool, worker).Set(static_cast<double>(std::max<int64_t>(lag_ns, 0)) / 1e9);
  metrics.usage_dropped.At(pool, worker).Add(journal.dropped);
  return metrics;
}

}  // namespace

void WorkerMetricsPage::Follow(std::function<EngineStats()> source,
                               std::function<UsageJournalStats()> journal,
                               const MetricLabels& labels) {
  absl::MutexLock lock(&mutex_);
  source_ = std::move(source);
  journal_ = std::move(journal);
  labels_ = labels;
}

void WorkerMetricsPage::Unfollow() {
  absl::MutexLock lock(&mutex_);
  source_ = nullptr;
  journal_ = nullptr;
}

std::vector<prometheus::MetricFamily> WorkerMetricsPage::Collect() const {
  absl::MutexLock lock(&mutex_);
  std::vector<prometheus::MetricFamily> out;
  if (source_) {
    MetricsOf(source_(), journal_(), labels_).CollectInto(out);
  } else {
    WorkerMetrics().CollectInto(out);
  }
  return out;
}

}  // namespace facet::worker
