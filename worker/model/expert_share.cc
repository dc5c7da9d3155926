#include "worker/model/expert_share.h"

#include "kernels/moe.h"

namespace facet::worker {

Status CheckExpertShare(const ExpertShare& share, const Gemma4Config& config) {
  if (share.num_ranks < 1 || kernels::kExpertSlices % share.num_ranks != 0) {
    return InvalidArgument("num_ranks is ", share.num_ranks,
                           "; experts can be shared by 1, 2, 4 or 8 ranks");
  }
  if (share.rank < 0 || share.rank >= share.num_ranks) {
    return InvalidArgument("rank is ", share.rank, "; it must be from 0 to ", share.num_ranks - 1);
  }
  if (!share.shared()) return absl::OkStatus();
  if (!config.has_experts()) {
    return InvalidArgument("num_ranks is ", share.num_ranks, "; the model has no experts to share");
  }
  if (config.num_experts % kernels::kExpertSlices != 0) {
    return InvalidArgument("num_experts is ", config.num_experts,
                           "; ranks can share a multiple of ", kernels::kExpertSlices);
  }
  return absl::OkStatus();
}

}  // namespace facet::worker
