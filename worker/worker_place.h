// Which worker of the cluster's config this process is.
#pragma once

#include <string>

#include "base/status.h"
#include "facet/v1/config.pb.h"
#include "worker/comm/group_control.h"

namespace facet::worker {

// Of the command line; empty strings leave what the config says.
struct PlaceFlags {
  std::string pool;  // May be empty if the config has one.
  int index = 0;
  std::string device;
  std::string grpc_address;
  std::string metrics_address;
};

struct WorkerPlace {
  facet::v1::PoolConfig pool;
  facet::v1::ModelConfig model;
  int index = 0;
  std::string grpc_address;
  std::string metrics_address;  // "off" for none.
  std::string data_host;

  bool is_rank() const { return pool.has_expert_group(); }

  std::string worker_name() const { return StrCat(pool.name(), "/", index); }
};

// NOT_FOUND or INVALID_ARGUMENT names the flag.
StatusOr<WorkerPlace> FindPlace(const facet::v1::ClusterConfig& config, const PlaceFlags& flags);

// How a rank comes to its group; the rank is set once it is known. INVALID_ARGUMENT: no group key.
StatusOr<GroupControl::Options> GroupOptionsOf(const WorkerPlace& place);

}  // namespace facet::worker
