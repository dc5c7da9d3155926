#include "tests/conformance/execution_order.h"

namespace facet::kernels {

void UseExecutionOrder(uint32_t) {}

}  // namespace facet::kernels
