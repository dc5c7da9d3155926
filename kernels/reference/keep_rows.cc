#include "kernels/keep_rows.h"

#include "kernels/reference/plain.h"
#include "kernels/reference/reference_backend.h"

namespace facet::kernels {

void ReferenceBackend::DoKeepRows(const KeepRowsArgs& args) {
  for (int64_t i = 0; i < args.rows.dim(0); ++i) {
    reference::PutRow(args.out, i, reference::RowOf(args.in, args.rows.as<int32_t>()[i]));
  }
}

}  // namespace facet::kernels
