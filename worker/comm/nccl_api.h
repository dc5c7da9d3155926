// The part of NCCL's interface (nccl.h, 2.28) that Facet calls, in our own words, so that builds
// without NCCL or CUDA compile and test the same code. nccl_api_check.cc holds it against the real
// header in builds that have one.
#pragma once

#include <climits>
#include <cstddef>

struct ncclComm;  // NCCL's own; opaque.

namespace facet::worker::nccl {

using Comm = ncclComm*;
using Stream = void*;  // cudaStream_t

inline constexpr int kVersionMin = 22800;  // 10000 major + 100 minor + patch.

enum Result : int {
  kSuccess = 0,
  kSystemError = 2,
  kInvalidArgument = 4,
  kRemoteError = 6,
  kInProgress = 7,
};

enum DataType : int { kInt8 = 0 };

enum ShrinkFlags : int { kShrinkAbort = 1 };

struct UniqueId {
  char bytes[128];
};

// ncclConfig_v22800 with NCCL_CONFIG_INITIALIZER's values: undefined means NCCL's choice.
struct Config {
  size_t size = sizeof(Config);
  unsigned int magic = 0xcafebeef;
  unsigned int version = kVersionMin;
  int blocking = INT_MIN;
  int cga_cluster_size = INT_MIN;
  int min_ctas = INT_MIN;
  int max_ctas = INT_MIN;
  const char* net_name = nullptr;
  int split_share = INT_MIN;
  int traffic_class = INT_MIN;
  const char* comm_name = nullptr;
  int collnet_enable = INT_MIN;
  int cta_policy = INT_MIN;
  int shrink_share = INT_MIN;
  int nvls_ctas = INT_MIN;
  int num_channels_per_net_peer = INT_MIN;
  int nvlink_centric_sched = INT_MIN;
};

// The library's functions. Those at the end may be null: NCCL 2.28.3 lacks some.
struct Functions {
  Result (*get_version)(int* version);
  const char* (*get_error_string)(Result result);
  const char* (*get_last_error)(Comm comm);
  Result (*get_unique_id)(UniqueId* id);
  Result (*comm_init_rank_config)(Comm* comm, int num_ranks, UniqueId id, int rank, Config* config);
  Result (*comm_get_async_error)(Comm comm, Result* error);
  Result (*comm_finalize)(Comm comm);
  Result (*comm_destroy)(Comm comm);
  Result (*comm_abort)(Comm comm);
  Result (*comm_shrink)(
      Comm comm, int* exclude, int num_exclude, Comm* shrunk, Config* config, int flags);
  Result (*group_start)();
  Result (*group_end)();
  Result (*send)(const void* from, size_t count, DataType type, int peer, Comm comm, Stream stream);
  Result (*recv)(void* to, size_t count, DataType type, int peer, Comm comm, Stream stream);
  Result (*all_gather)(
      const void* from, void* to, size_t count, DataType type, Comm comm, Stream stream);
  Result (*all_to_all)(
      const void* from, void* to, size_t count, DataType type, Comm comm, Stream stream);
  Result (*comm_revoke)(Comm comm, int flags);
};

// Each function's name in the library, and whether a library without it will do.
template <typename Visit>
void ForEachFunction(Functions& functions, const Visit& visit) {
  const auto required = [&](auto& function, const char* name) { visit(function, name, true); };
  const auto optional = [&](auto& function, const char* name) { visit(function, name, false); };
  required(functions.get_version, "ncclGetVersion");
  required(functions.get_error_string, "ncclGetErrorString");
  required(functions.get_last_error, "ncclGetLastError");
  required(functions.get_unique_id, "ncclGetUniqueId");
  required(functions.comm_init_rank_config, "ncclCommInitRankConfig");
  required(functions.comm_get_async_error, "ncclCommGetAsyncError");
  required(functions.comm_finalize, "ncclCommFinalize");
  required(functions.comm_destroy, "ncclCommDestroy");
  required(functions.comm_abort, "ncclCommAbort");
  required(functions.comm_shrink, "ncclCommShrink");
  required(functions.group_start, "ncclGroupStart");
  required(functions.group_end, "ncclGroupEnd");
  required(functions.send, "ncclSend");
  required(functions.recv, "ncclRecv");
  required(functions.all_gather, "ncclAllGather");
  optional(functions.all_to_all, "ncclAlltoAll");
  optional(functions.comm_revoke, "ncclCommRevoke");
}

}  // namespace facet::worker::nccl
