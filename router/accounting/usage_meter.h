// Each request that ended becomes a log line and counters, which therefore agree. What is kept for
// bills is the usage ledger.
//
// Any thread may record.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "base/bounded_labels.h"
#include "base/metrics.h"
#include "base/status.h"
#include "facet/v1/config.pb.h"
#include "facet/v1/inference.pb.h"
#include "metrics_registry.h"

namespace facet::router {

// What one request used and how it ended. Never its text.
struct RequestSummary {
  std::string request_id;
  std::string model;
  std::string tenant;
  std::string worker;  // "pool/index" of the last attempt; empty if none began.
  std::string numerics_id;
  uint32_t attempts = 0;
  Status status;  // The answer's.
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;
  v1::Usage usage;
};

class UsageMeter {
 public:
  // slos: by model. The page must outlive the ledger.
  UsageMeter(MetricsPage<RouterMetrics>& metrics, std::map<std::string, v1::SloConfig> slos)
      : metrics_(metrics), slos_(std::move(slos)) {}

  void Record(const RequestSummary& request);

  // A charge that came after the request's record: in the counters, so that their sums equal the
  // workers', but in no record.
  void ChargeLate(const std::string& model, const std::string& tenant, int64_t cost_nano_usd);

 private:
  // The tenant as metrics name it.
  std::string TenantLabel(RouterMetrics& metrics, const std::string& tenant);

  MetricsPage<RouterMetrics>& metrics_;
  const std::map<std::string, v1::SloConfig> slos_;
  BoundedLabels tenants_;  // Guarded by the page's lock.
};

}  // namespace facet::router
