#include "worker/service/worker_metrics.h"

#include "worker/engine/charge.h"

namespace facet::worker {
namespace {

template <typename Map, typename Key>
auto ValueOf(const Map& map, const Key& key) {
  const auto it = map.find(key);
  return it == map.end() ? typename Map::mapped_type{} : it->second;
}

// The label of cost that no request pays, or null for states that requests do.
const char* IdleReason(DeviceState state) {
  switch (state) {
    case DeviceState::kLoading:
      return "loading";
    case DeviceState::kIdle:
      return "no_demand";
    case DeviceState::kDrain:
      return "drain";
    default:
      return nullptr;
  }
}

}  // namespace

WorkerMetricsFeed::WorkerMetricsFeed(MetricsPage<WorkerMetrics>& page,
                                     const MetricLabels& labels,
                                     double price_usd_per_hour)
    : page_(page), labels_(labels), price_usd_per_hour_(price_usd_per_hour) {}

void WorkerMetricsFeed::Update(const EngineStats& stats) {
  const auto& [pool, model, device_class, worker] = labels_;
  auto metrics = page_.Write();
  metrics->device_held.At(pool, model, device_class, worker).Add(stats.held_ns - last_.held_ns);
  for (int i = 0; i < kNumDeviceStates; ++i) {
    const auto state = static_cast<DeviceState>(i);
    metrics->device_state.At(pool, model, device_class, worker, NameOf(state))
        .Add(stats.state_ns[i] - last_.state_ns[i]);
    const char* reason = IdleReason(state);
    if (reason == nullptr) continue;
    metrics->idle_cost.At(model, pool, reason)
        .Add(CostNanoUsd(stats.state_ns[i], price_usd_per_hour_) -
             CostNanoUsd(last_.state_ns[i], price_usd_per_hour_));
  }
  metrics->device_price.At(pool, device_class, worker).Set(price_usd_per_hour_ / 3600);
  for (const auto& [tenant, use] : stats.tenants) {
    const TenantUse before = ValueOf(last_.tenants, tenant);
    metrics->device_busy.At(model, tenant, "prefill", pool).Add(use.prefill_ns - before.prefill_ns);
    metrics->device_busy.At(model, tenant, "decode", pool).Add(use.decode_ns - before.decode_ns);
    metrics->cost.At(model, tenant, "prefill", pool)
        .Add(use.prefill_nano_usd - before.prefill_nano_usd);
    metrics->cost.At(model, tenant, "decode", pool)
        .Add(use.decode_nano_usd - before.decode_nano_usd);
  }
  for (const auto& [reason, ns] : stats.wasted_ns) {
    metrics->device_wasted.At(model, reason).Add(ns - ValueOf(last_.wasted_ns, reason));
  }
  for (const auto& [reason, count] : stats.finished) {
    metrics->sequences_finished.At(model, pool, reason)
        .Add(count - ValueOf(last_.finished, reason));
  }
  const auto moved = [](uint64_t now, uint64_t before) {
    return static_cast<int64_t>(now - before);
  };
  metrics->tokens.At(model, pool, "prompt_computed")
      .Add(moved(stats.load.prompt_tokens_total, last_.load.prompt_tokens_total));
  metrics->tokens.At(model, pool, "output")
      .Add(moved(stats.load.output_tokens_total, last_.load.output_tokens_total));
  metrics->steps.At(model, pool).Add(moved(stats.steps, last_.steps));
  metrics->preemptions.At(model, pool).Add(stats.preemptions - last_.preemptions);
  metrics->sequences.At(model, pool, worker, "running").Set(stats.load.sequences_running);
  metrics->sequences.At(model, pool, worker, "waiting").Set(stats.load.sequences_waiting);
  metrics->kv_used.At(model, pool, worker).Set(static_cast<double>(stats.load.kv_bytes_used));
  metrics->kv_capacity.At(model, pool, worker).Set(static_cast<double>(stats.load.kv_bytes_total));
  last_ = stats;
}

}  // namespace facet::worker
