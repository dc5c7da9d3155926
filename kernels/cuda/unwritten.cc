// Ops that no .cu file defines yet: weak, so that a file that defines one replaces it.
// TODO(#4): ends when the last op is there.
#include "base/check.h"
#include "kernels/cuda/cuda_backend.h"

namespace facet::kernels {

__attribute__((weak)) void CudaBackend::DoPagedAttention(const PagedAttentionArgs&) {
  FACET_CHECK(false) << "not written";
}

__attribute__((weak)) void CudaBackend::DoNormRouterTopK(const NormRouterTopKArgs&) {
  FACET_CHECK(false) << "not written";
}

__attribute__((weak)) void CudaBackend::DoMoeUp(const MoeUpArgs&) {
  FACET_CHECK(false) << "not written";
}

__attribute__((weak)) void CudaBackend::DoMoeDown(const MoeDownArgs&) {
  FACET_CHECK(false) << "not written";
}

__attribute__((weak)) void CudaBackend::DoMoeCombine(const MoeCombineArgs&) {
  FACET_CHECK(false) << "not written";
}

__attribute__((weak)) void CudaBackend::DoSample(const SampleArgs&) {
  FACET_CHECK(false) << "not written";
}

}  // namespace facet::kernels
