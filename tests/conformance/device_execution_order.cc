#include "tests/conformance/execution_order.h"

namespace facet::kernels {

void UseExecutionOrder(uint32_t) {}

std::function<std::string(cudaGraphExec_t, cudaGraph_t)> ReplayComparison() { return nullptr; }

}  // namespace facet::kernels
