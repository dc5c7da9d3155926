#include "router/accounting/slo.h"

namespace facet::router {
namespace {

bool IsOurs(const Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDataLoss:
      return true;
    default:
      return false;
  }
}

SloResult Met(bool met) { return met ? SloResult::kMet : SloResult::kMissed; }

}  // namespace

SloVerdict JudgeSlo(const Status& status, const v1::Usage& usage, const v1::SloConfig& slo) {
  if (!status.ok() && !IsOurs(status)) return {};
  SloVerdict verdict;
  // A failed request without a token never got its first one.
  verdict.ttft = Met(usage.completion_tokens() > 0 &&
                     usage.ttft_ms() <= static_cast<double>(slo.ttft_ms_max()));
  if (usage.completion_tokens() > 1) {
    verdict.tpot = Met(usage.tpot_ms() <= static_cast<double>(slo.tpot_ms_max()));
  }
  verdict.all =
      Met(status.ok() && verdict.ttft != SloResult::kMissed && verdict.tpot != SloResult::kMissed);
  return verdict;
}

}  // namespace facet::router
