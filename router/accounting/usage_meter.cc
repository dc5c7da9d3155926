#include "router/accounting/usage_meter.h"

#include "base/log.h"
#include "proto/grpc_status.h"
#include "router/accounting/slo.h"

namespace facet::router {

void UsageMeter::Record(const RequestSummary& request) {
  const v1::Usage& usage = request.usage;
  const std::string code = CodeName(request.status.code());
  {
    auto metrics = metrics_.Write();
    const std::string tenant = TenantLabel(*metrics.operator->(), request.tenant);
    const auto count = [&](std::string_view kind, int64_t tokens) {
      metrics->tokens.At(request.model, tenant, kind).Add(tokens);
    };
    metrics->requests.At(request.model, code).Add(1);
    if (request.attempts > 0) {
      count("prompt", usage.prompt_tokens());
      count("output", usage.completion_tokens() - usage.thinking_tokens());
      count("output_thinking", usage.thinking_tokens());
      metrics->charged.At(request.model, tenant).Add(usage.cost_nano_usd());
      metrics->request_time.At(request.model).Observe(usage.total_ms() / 1000);
    }
    if (request.status.ok() && usage.completion_tokens() > 1) {
      metrics->tpot.At(request.model).Observe(usage.tpot_ms() / 1000);
    }
    if (const auto slo = slos_.find(request.model); slo != slos_.end()) {
      const SloVerdict verdict = JudgeSlo(request.status, usage, slo->second);
      const auto judge = [&](std::string_view name, SloResult result) {
        metrics->slo_requests.At(request.model, name, NameOf(result)).Add(1);
      };
      judge("ttft", verdict.ttft);
      judge("tpot", verdict.tpot);
      judge("all", verdict.all);
      if (verdict.all == SloResult::kMet) {
        metrics->goodput_tokens.At(request.model).Add(usage.completion_tokens());
      }
    }
  }
  Log(kInfo, "request finished",
      {{"request_id", request.request_id},
       {"model", request.model},
       {"tenant", request.tenant},
       {"worker", request.worker},
       {"numerics_id", request.numerics_id},
       {"attempts", request.attempts},
       {"code", code},
       {"reason", ReasonOf(request.status)},
       {"finish", v1::FinishReason_Name(request.finish_reason)},
       {"prompt_tokens", usage.prompt_tokens()},
       {"completion_tokens", usage.completion_tokens()},
       {"thinking_tokens", usage.thinking_tokens()},
       {"prefill_device_ns", usage.prefill_device_ns()},
       {"decode_device_ns", usage.decode_device_ns()},
       {"cost_nano_usd", usage.cost_nano_usd()},
       {"queue_ms", usage.queue_ms()},
       {"ttft_ms", usage.ttft_ms()},
       {"tpot_ms", usage.tpot_ms()},
       {"total_ms", usage.total_ms()}});
}

void UsageMeter::ChargeLate(const std::string& model,
                            const std::string& tenant,
                            int64_t cost_nano_usd) {
  auto metrics = metrics_.Write();
  metrics->charged.At(model, TenantLabel(*metrics.operator->(), tenant)).Add(cost_nano_usd);
}

std::string UsageMeter::TenantLabel(RouterMetrics& metrics, const std::string& tenant) {
  if (tenants_.Admit(tenant)) return tenant;
  metrics.label_overflow.At("tenant").Add(1);
  return BoundedLabels::kOther;
}

}  // namespace facet::router
