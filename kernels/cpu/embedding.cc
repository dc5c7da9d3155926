#include "kernels/embedding.h"

#include <algorithm>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/linear.h"

namespace facet::kernels {
namespace {

int32_t ResolvedId(const EmbedArgs& args, int64_t token) {
  const int32_t entry = args.ids.as<int32_t>()[token];
  const int32_t id = entry >= 0 ? entry : args.last_tokens.as<int32_t>()[-entry - 1];
  const auto& placeholders = args.placeholders;
  const bool placeholder =
      std::find(placeholders.begin(), placeholders.end(), id) != placeholders.end();
  return placeholder ? args.pad_id : id;
}

// One row out of the panels.
template <typename T>
void UnpackRow(const PackedWeight& weight, int64_t row, float* out) {
  const T* panel =
      static_cast<const T*>(weight.data.data()) + row / kPanelOutputs * kPanelOutputs * weight.cols;
  const int64_t i = row % kPanelOutputs;
  for (int64_t k = 0; k < weight.cols; ++k) {
    if constexpr (std::is_same_v<T, Bf16>) {
      out[k] = ToFloat(panel[(k / 2 * kPanelOutputs + i) * 2 + k % 2]);
    } else {
      out[k] = panel[k * kPanelOutputs + i];
    }
  }
}

}  // namespace

void CpuBackend::DoEmbed(const EmbedArgs& args) {
  const int64_t hidden = args.table.cols;
  WithElement(args.hidden.dtype(), [&]<typename T>() {
    pool_.For(args.ids.dim(0), [&](int64_t t, int thread) {
      float* row = scratch_.Floats(thread, hidden);
      const int32_t id = ResolvedId(args, t);
      args.resolved_ids.as<int32_t>()[t] = id;
      UnpackRow<T>(args.table, id, row);
      T* out = args.hidden.as<T>() + t * hidden;
      for (int64_t i = 0; i < hidden; ++i) out[i] = FromFloat<T>(row[i] * args.scale);
    });
  });
}

void CpuBackend::DoPleInputs(const PleInputsArgs& args) {
  const int64_t num_tokens = args.ids.dim(0);
  const int64_t hidden = args.hidden.dim(1);
  const int64_t width = args.projection.rows;
  const int64_t ple_size = args.norm_weight.dim(0);
  const float root_half = std::sqrt(0.5F);
  WithElement(args.hidden.dtype(), [&]<typename T>() {
    T* ple = args.ple.as<T>();
    Linear<T>(pool_, primitives_, scratch_, RowPointers(args.hidden.as<T>(), num_tokens, hidden),
              args.projection, [&](const TileSums& sums) { StoreRounded(sums, ple, width, 0); });
    pool_.For(num_tokens, [&](int64_t t, int thread) {
      float* row = scratch_.Floats(thread, ple_size + width);
      float* tokens = row + ple_size;
      const int64_t first = args.ids.as<int32_t>()[t] * width;
      if (args.table.dtype() == DType::kBf16) {
        Widen(args.table.as<Bf16>() + first, width, tokens);
      } else {
        Widen(args.table.as<float>() + first, width, tokens);
      }
      for (int64_t layer = 0; layer < width; layer += ple_size) {
        T* part = ple + t * width + layer;
        for (int64_t i = 0; i < ple_size; ++i) {
          row[i] = Rounded<T>(ToFloat(part[i]) * args.context_scale);
        }
        RmsNormRow(primitives_, row, args.norm_weight.as<T>(), ple_size, args.eps, row);
        for (int64_t i = 0; i < ple_size; ++i) {
          const float token = Rounded<T>(Rounded<T>(tokens[layer + i]) * args.token_scale);
          part[i] = FromFloat<T>(Rounded<T>(row[i] + token) * root_half);
        }
      }
    });
  });
}

}  // namespace facet::kernels
