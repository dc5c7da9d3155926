// Whether a request got what its model's slo promises.
#pragma once

#include "base/status.h"
#include "facet/v1/config.pb.h"
#include "facet/v1/inference.pb.h"

namespace facet::router {

// Excluded: what the client did wrong or gave up, and what a request has too few tokens to show.
enum class SloResult { kMet, kMissed, kExcluded };

constexpr const char* NameOf(SloResult result) {
  constexpr const char* kNames[] = {"met", "missed", "excluded"};
  return kNames[static_cast<int>(result)];
}

struct SloVerdict {
  SloResult ttft = SloResult::kExcluded;
  SloResult tpot = SloResult::kExcluded;
  SloResult all = SloResult::kExcluded;  // Missed if either is, or the request failed.
};

// usage is that of the whole request, status that of its answer. The codes that count are those of
// the availability rules (deploy/rules/recording.yaml).
SloVerdict JudgeSlo(const Status& status, const v1::Usage& usage, const v1::SloConfig& slo);

}  // namespace facet::router
