#include "proto/cluster_status.h"

#include <nlohmann/json.hpp>

namespace facet {

std::string WorkerName(const v1::WorkerStatus& worker) {
  return StrCat(worker.pool(), "/", worker.index());
}

std::string StateName(v1::WorkerState state) {
  switch (state) {
    case v1::WORKER_STATE_CONNECTING:
      return "connecting";
    case v1::WORKER_STATE_LOADING:
      return "loading";
    case v1::WORKER_STATE_READY:
      return "ready";
    case v1::WORKER_STATE_DRAINING:
      return "draining";
    case v1::WORKER_STATE_MISMATCH:
      return "mismatch";
    case v1::WORKER_STATE_DEAD:
      return "dead";
    case v1::WORKER_STATE_HUNG:
      return "hung";
    case v1::WORKER_STATE_SPARE:
      return "spare";
    default:
      return "unknown";
  }
}

Status CheckReady(const v1::GetStatusResponse& status) {
  if (status.workers_size() == 0) return FailedPrecondition("the cluster has no workers");
  std::string missing;
  int num_missing = 0;
  for (const v1::WorkerStatus& worker : status.workers()) {
    // A group that lacks ranks shows in the others.
    if (worker.state() == v1::WORKER_STATE_READY || worker.state() == v1::WORKER_STATE_SPARE) {
      continue;
    }
    ++num_missing;
    missing +=
        StrCat(missing.empty() ? "" : "; ", WorkerName(worker), " is ", StateName(worker.state()));
    if (!worker.reason().empty()) missing += StrCat(" (", worker.reason(), ")");
  }
  if (num_missing == 0) return absl::OkStatus();
  return FailedPrecondition(num_missing, " of ", status.workers_size(),
                            " workers not ready: ", missing);
}

nlohmann::ordered_json StatusJson(const v1::GetStatusResponse& status) {
  using Json = nlohmann::ordered_json;
  Json workers = Json::array();
  for (const v1::WorkerStatus& worker : status.workers()) {
    workers.push_back(Json{{"pool", worker.pool()},
                           {"index", worker.index()},
                           {"address", worker.address()},
                           {"model", worker.model()},
                           {"state", StateName(worker.state())},
                           {"reason", worker.reason()},
                           {"device_class", worker.device_class()},
                           {"numerics_id", worker.numerics_id()},
                           {"sequences_running", worker.sequences_running()},
                           {"sequences_waiting", worker.sequences_waiting()},
                           {"kv_bytes_used", worker.kv_bytes_used()},
                           {"kv_bytes_total", worker.kv_bytes_total()},
                           {"prompt_tokens_per_second", worker.prompt_tokens_per_second()},
                           {"output_tokens_per_second", worker.output_tokens_per_second()},
                           {"price_usd_per_hour", worker.price_usd_per_hour()},
                           {"usd_per_mtok_output", worker.usd_per_mtok_output()},
                           {"busy_share", worker.busy_share()},
                           {"steps", worker.steps()},
                           {"group", worker.group()},
                           {"rank", worker.rank()},
                           {"num_ranks", worker.num_ranks()},
                           {"group_epoch", worker.group_epoch()},
                           {"expert_choices", worker.expert_choices()}});
  }
  return Json{{"cluster", status.cluster()},
              {"version", status.version()},
              {"uptime_seconds", status.uptime_seconds()},
              {"ready", CheckReady(status).ok()},
              {"requests_queued", status.requests_queued()},
              {"requests_running", status.requests_running()},
              {"workers", workers}};
}

}  // namespace facet
