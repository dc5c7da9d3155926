#include "kernels/keep_rows.h"

#include <cstring>

#include "kernels/cpu/cpu_backend.h"

namespace facet::kernels {

void CpuBackend::DoKeepRows(const KeepRowsArgs& args) {
  const int64_t row_bytes = args.in.dim(1) * SizeOf(args.in.dtype());
  const auto* in = static_cast<const std::byte*>(args.in.raw());
  auto* out = static_cast<std::byte*>(args.out.raw());
  pool_.For(args.rows.dim(0), [&](int64_t i, int) {
    std::memcpy(out + i * row_bytes, in + args.rows.as<int32_t>()[i] * row_bytes,
                static_cast<size_t>(row_bytes));
  });
}

}  // namespace facet::kernels
