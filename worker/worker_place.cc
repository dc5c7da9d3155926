#include "worker/worker_place.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "base/file.h"

namespace facet::worker {
namespace {

// What all ranks of a group must know; never logged.
StatusOr<std::string> ReadGroupKey(const facet::v1::ExpertGroupConfig& group) {
  constexpr size_t kKeyBytesMin = 16;
  std::string key;
  std::string source = "the environment variable FACET_GROUP_KEY";
  if (!group.key_file().empty()) {
    source = "expert_group.key_file " + group.key_file();
    FACET_ASSIGN_OR_RETURN(key, ReadFile(group.key_file()));
    while (!key.empty() && std::isspace(static_cast<unsigned char>(key.back())) != 0)
      key.pop_back();
  } else if (const char* value = std::getenv("FACET_GROUP_KEY"); value != nullptr) {
    key = value;
  }
  if (key.size() >= kKeyBytesMin) return key;
  return InvalidArgument(source, " holds a key of ", key.size(), " bytes; at least ", kKeyBytesMin,
                         " are needed");
}

}  // namespace

StatusOr<WorkerPlace> FindPlace(const facet::v1::ClusterConfig& config, const PlaceFlags& flags) {
  WorkerPlace place{.index = flags.index};
  std::string names;
  bool found = false;
  for (const facet::v1::PoolConfig& pool : config.pools()) {
    names += (names.empty() ? "" : ", ") + pool.name();
    if (pool.name() != flags.pool && !(flags.pool.empty() && config.pools_size() == 1)) continue;
    place.pool = pool;
    found = true;
  }
  if (!found) return NotFound("--pool is \"", flags.pool, "\"; the config has ", names);
  if (flags.index < 0 || flags.index >= std::max(1, place.pool.workers_size())) {
    return InvalidArgument("--index is ", flags.index, "; pool ", place.pool.name(), " has ",
                           place.pool.workers_size(), " workers");
  }
  for (const facet::v1::ModelConfig& model : config.models()) {
    if (model.name() == place.pool.model()) place.model = model;
  }
  if (flags.index < place.pool.workers_size()) {
    place.grpc_address = place.pool.workers(flags.index).grpc_address();
    place.metrics_address = place.pool.workers(flags.index).metrics_address();
    place.data_host = place.pool.workers(flags.index).data_host();
    place.pool.set_device(place.pool.workers(flags.index).device());
  }
  if (!flags.grpc_address.empty()) place.grpc_address = flags.grpc_address;
  if (!flags.metrics_address.empty()) place.metrics_address = flags.metrics_address;
  if (!flags.device.empty()) {
    const std::string& comm = place.pool.expert_group().comm();
    if (place.is_rank() && (comm == "nccl") != flags.device.starts_with("cuda")) {
      return InvalidArgument("--device is ", flags.device, "; expert_group.comm of pool ",
                             place.pool.name(), " is ", comm, ", for device ", place.pool.device());
    }
    place.pool.set_device(flags.device);
  }
  if (place.grpc_address.empty()) place.grpc_address = "127.0.0.1:0";
  if (place.metrics_address.empty()) place.metrics_address = "off";
  return place;
}

StatusOr<GroupControl::Options> GroupOptionsOf(const WorkerPlace& place) {
  const facet::v1::ExpertGroupConfig& group = place.pool.expert_group();
  GroupControl::Options options{.num_ranks = group.ranks(),
                                .rendezvous_address = group.rendezvous_address()};
  FACET_ASSIGN_OR_RETURN(options.group_key, ReadGroupKey(group));
  return options;
}

}  // namespace facet::worker
