// Holds nccl_api.h against NCCL's own header. Only in builds with CUDA; has no code.
#include <nccl.h>

#include <cstddef>
#include <type_traits>

#include "worker/comm/nccl_api.h"

namespace facet::worker::nccl {
namespace {

static_assert(NCCL_VERSION_CODE >= kVersionMin);
static_assert(std::is_same_v<Comm, ncclComm_t>);
static_assert(kSuccess == static_cast<int>(ncclSuccess) &&
              kSystemError == static_cast<int>(ncclSystemError) &&
              kInvalidArgument == static_cast<int>(ncclInvalidArgument) &&
              kRemoteError == static_cast<int>(ncclRemoteError) &&
              kInProgress == static_cast<int>(ncclInProgress));
static_assert(sizeof(Result) == sizeof(ncclResult_t));
static_assert(kInt8 == static_cast<int>(ncclInt8) && sizeof(DataType) == sizeof(ncclDataType_t));
static_assert(kShrinkAbort == NCCL_SHRINK_ABORT && NCCL_REVOKE_DEFAULT == 0);
static_assert(sizeof(UniqueId) == sizeof(ncclUniqueId) &&
              alignof(UniqueId) == alignof(ncclUniqueId));
static_assert(NCCL_CONFIG_UNDEF_INT == INT_MIN);

static_assert(sizeof(Config) == sizeof(ncclConfig_t));
static_assert(offsetof(Config, magic) == offsetof(ncclConfig_t, magic) &&
              offsetof(Config, version) == offsetof(ncclConfig_t, version) &&
              offsetof(Config, blocking) == offsetof(ncclConfig_t, blocking) &&
              offsetof(Config, net_name) == offsetof(ncclConfig_t, netName) &&
              offsetof(Config, comm_name) == offsetof(ncclConfig_t, commName) &&
              offsetof(Config, nvlink_centric_sched) == offsetof(ncclConfig_t, nvlinkCentricSched));

// A parameter is passed in the same way: both are pointers, or values of one size that are both
// classes or both not.
template <typename Ours, typename Theirs>
constexpr bool kPassedAlike = std::is_pointer_v<Ours> ==
                                  std::is_pointer_v<Theirs>&& std::is_class_v<Ours> ==
                                  std::is_class_v<Theirs> &&
                              sizeof(Ours) == sizeof(Theirs);

template <typename Ours, typename Theirs>
constexpr bool kCalledAlike = false;

template <typename R1, typename... A1, typename R2, typename... A2>
constexpr bool kCalledAlike<R1 (*)(A1...), R2(A2...)> = [] {
  if constexpr (sizeof...(A1) == sizeof...(A2)) {
    return kPassedAlike<R1, R2> && (kPassedAlike<A1, A2> && ...);
  } else {
    return false;
  }
}();

static_assert(kCalledAlike<decltype(Functions::get_version), decltype(ncclGetVersion)>);
static_assert(kCalledAlike<decltype(Functions::get_error_string), decltype(ncclGetErrorString)>);
static_assert(kCalledAlike<decltype(Functions::get_last_error), decltype(ncclGetLastError)>);
static_assert(kCalledAlike<decltype(Functions::get_unique_id), decltype(ncclGetUniqueId)>);
static_assert(
    kCalledAlike<decltype(Functions::comm_init_rank_config), decltype(ncclCommInitRankConfig)>);
static_assert(
    kCalledAlike<decltype(Functions::comm_get_async_error), decltype(ncclCommGetAsyncError)>);
static_assert(kCalledAlike<decltype(Functions::comm_finalize), decltype(ncclCommFinalize)>);
static_assert(kCalledAlike<decltype(Functions::comm_destroy), decltype(ncclCommDestroy)>);
static_assert(kCalledAlike<decltype(Functions::comm_abort), decltype(ncclCommAbort)>);
static_assert(kCalledAlike<decltype(Functions::comm_shrink), decltype(ncclCommShrink)>);
static_assert(kCalledAlike<decltype(Functions::group_start), decltype(ncclGroupStart)>);
static_assert(kCalledAlike<decltype(Functions::group_end), decltype(ncclGroupEnd)>);
static_assert(kCalledAlike<decltype(Functions::send), decltype(ncclSend)>);
static_assert(kCalledAlike<decltype(Functions::recv), decltype(ncclRecv)>);
static_assert(kCalledAlike<decltype(Functions::all_gather), decltype(ncclAllGather)>);
static_assert(kCalledAlike<decltype(Functions::all_to_all), decltype(ncclAlltoAll)>);
static_assert(kCalledAlike<decltype(Functions::comm_revoke), decltype(ncclCommRevoke)>);

}  // namespace
}  // namespace facet::worker::nccl
