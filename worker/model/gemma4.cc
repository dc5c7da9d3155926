#include "worker/model/gemma4.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "kernels/misreading.h"
#include "worker/model/attention.h"
#include "worker/model/mlp.h"
#include "worker/model/moe.h"
#include "worker/model/per_layer_embedding.h"

namespace facet::worker {
namespace {

using kernels::AttentionRow;
using kernels::ConstTensorView;
using kernels::DType;
using kernels::Misread;
using kernels::Misreading;
using kernels::TensorView;

DeviceVector UploadFrequencies(const RopeShape& rope,
                               const std::vector<LayerShape>& layers,
                               bool full,
                               kernels::Backend& backend) {
  const auto layer = std::find_if(layers.begin(), layers.end(),
                                  [&](const LayerShape& shape) { return shape.full == full; });
  DeviceVector vector;
  if (layer == layers.end()) return vector;
  const std::vector<float> frequencies = InverseFrequencies(rope, layer->head_dim);
  const auto size = static_cast<int64_t>(frequencies.size());
  vector.buffer =
      backend.Upload(ConstTensorView(frequencies.data(), DType::kF32, {size}), DType::kF32);
  vector.view = ConstTensorView(vector.buffer.data(), DType::kF32, {size});
  return vector;
}

// The rows that hold those tokens (ascending) of a step, renumbered from 0.
std::vector<AttentionRow> RowsOfTokens(std::span<const AttentionRow> rows,
                                       std::span<const int32_t> tokens) {
  std::vector<AttentionRow> kept;
  size_t i = 0;
  for (const AttentionRow& row : rows) {
    bool joins = false;
    for (; i < tokens.size() && tokens[i] < row.first_token + row.num_tokens; ++i) {
      const int64_t position = row.first_position + tokens[i] - row.first_token;
      if (joins && kept.back().first_position + kept.back().num_tokens == position) {
        ++kept.back().num_tokens;
      } else {
        kept.push_back({.first_token = static_cast<int32_t>(i),
                        .num_tokens = 1,
                        .first_position = position,
                        .first_block = row.first_block,
                        .blocks = row.blocks});
      }
      joins = true;
    }
  }
  return kept;
}

}  // namespace

// Owns what peers that read host memory read until the step's end.
struct WantedTokens {
  WantedTokens(const ForwardInput& input,
               const kernels::AttentionShape& sliding,
               const kernels::AttentionShape& full,
               kernels::Backend& backend)
      : sliding_rows(RowsOfTokens(input.sliding_rows, input.logits_rows)),
        full_rows(RowsOfTokens(input.full_rows, input.logits_rows)),
        places(input.logits_rows.size()) {
    std::iota(places.begin(), places.end(), 0);
    tokens = backend.StageInts(input.logits_rows);
    logits_rows = backend.StageInts(places);
    sliding_batch = backend.StageRows(sliding_rows, sliding);
    full_batch = backend.StageRows(full_rows, full);
  }

  int64_t num_tokens() const { return static_cast<int64_t>(places.size()); }

  std::vector<AttentionRow> sliding_rows;
  std::vector<AttentionRow> full_rows;
  std::vector<int32_t> places;
  ConstTensorView tokens;       // Of the step.
  ConstTensorView logits_rows;  // Of the step of their own: all.
  kernels::AttentionBatch sliding_batch;
  kernels::AttentionBatch full_batch;
};

Gemma4::Gemma4(const Gemma4Config& config,
               Gemma4Weights weights,
               DType dtype,
               kernels::Backend& backend,
               int32_t step_tokens_max)
    : config_(config),
      weights_(std::move(weights)),
      dtype_(dtype),
      backend_(backend),
      buffers_(
          config, dtype, [&](int64_t bytes) { return backend.Allocate(bytes); }, step_tokens_max),
      sliding_inv_freq_(UploadFrequencies(config.sliding_rope, config.layers, false, backend)),
      full_inv_freq_(UploadFrequencies(config.full_rope, config.layers, true, backend)) {}

std::vector<KvLayerShape> Gemma4::KvShapes(const Gemma4Config& config, DType dtype) {
  std::vector<KvLayerShape> shapes;
  for (const LayerShape& layer : config.layers) {
    shapes.push_back({.geometry = layer.full ? KvGeometry::kFull : KvGeometry::kSliding,
                      .owns = !layer.shares_kv,
                      .owner = layer.kv_layer,
                      .bytes_per_token = int64_t{2} * layer.num_kv_heads * layer.head_dim *
                                         kernels::SizeOf(dtype)});
  }
  return shapes;
}

StatusOr<ConstTensorView> Gemma4::Forward(const ForwardInput& input, const KvCache& kv) {
  const auto num_tokens = static_cast<int64_t>(input.ids.size());
  FACET_CHECK_LE(num_tokens, buffers_.step_tokens_max);
  if (input.exchange != nullptr && num_tokens > input.exchange->capacity()) {
    return InvalidArgument("the step has ", num_tokens, " tokens; the ranks agreed on at most ",
                           input.exchange->capacity());
  }
  const ConstTensorView ids = backend_.StageInts(input.ids);
  const kernels::AttentionShape sliding = AttentionShapeOf(/*full=*/false);
  const kernels::AttentionShape full = AttentionShapeOf(/*full=*/true);
  const int32_t kv_end = config_.kv_layers_end();
  std::optional<WantedTokens> wanted;
  if (kv_end < config_.num_layers && input.logits_rows.size() < input.ids.size() &&
      input.exchange == nullptr) {
    wanted.emplace(input, sliding, full, backend_);
  }
  const ConstTensorView logits_rows =
      wanted ? wanted->logits_rows : backend_.StageInts(input.logits_rows);
  StepState state{.buffers = buffers_,
                  .num_tokens = num_tokens,
                  .sliding_batch = backend_.StageRows(input.sliding_rows, sliding),
                  .full_batch = backend_.StageRows(input.full_rows, full)};
  backend_.SendStaged();
  state.hidden = state.View(buffers_.hidden, config_.hidden);
  state.branch = state.View(buffers_.branch, config_.hidden);
  const TensorView logits = LogitsFor(logits_rows.dim(0));

  const auto layers = [&]() -> Status {
    Embed(ids, input.last_tokens, state);
    for (int32_t i = 0; i < config_.num_layers; ++i) {
      if (wanted && i == kv_end) {
        if (wanted->num_tokens() == 0) return absl::OkStatus();
        KeepWanted(*wanted, state);
      }
      FACET_RETURN_IF_ERROR(Layer(i, input.exchange, state, kv));
    }
    Head(logits_rows, state, logits);
    return absl::OkStatus();
  };
  // Steps of one token for each sequence come again and again; others are of all shapes.
  const size_t num_rows = std::max(input.sliding_rows.size(), input.full_rows.size());
  Status status;
  if (static_cast<int64_t>(num_rows) == num_tokens && !wanted && input.exchange == nullptr) {
    const auto address = [](const void* memory) { return reinterpret_cast<int64_t>(memory); };
    backend_.RunRecorded({{num_tokens, address(logits.raw()), address(input.last_tokens.raw()),
                           address(kv.View(0).base), address(buffers_.hidden.data())}},
                         [&] { status = layers(); });
  } else {
    status = layers();
  }
  FACET_RETURN_IF_ERROR(status);
  return logits;
}

Status Gemma4::ServeExperts(ExpertExchange& exchange) {
  StepState state{.buffers = buffers_};
  state.hidden = state.View(buffers_.hidden, config_.hidden);
  state.branch = state.View(buffers_.branch, config_.hidden);
  for (int32_t i = 0; i < config_.num_layers; ++i) {
    FACET_RETURN_IF_ERROR(
        SharedMoe(backend_, config_, config_.layers[i], weights_.layers[i], exchange, state));
  }
  return absl::OkStatus();
}

void Gemma4::KeepWanted(const WantedTokens& wanted, StepState& state) {
  state.num_tokens = wanted.num_tokens();
  state.sliding_batch = wanted.sliding_batch;
  state.full_batch = wanted.full_batch;
  const auto keep = [&](const ConstTensorView& in, const kernels::Buffer& buffer) {
    const TensorView out = state.View(buffer, in.dim(1));
    backend_.KeepRows({.in = in, .rows = wanted.tokens, .out = out});
    return out;
  };
  // No op may write where it reads: the two buffers change places.
  state.hidden = keep(state.hidden, buffers_.branch);
  state.branch = state.View(buffers_.hidden, config_.hidden);
  if (!config_.has_ple()) return;
  const int64_t bytes = state.num_tokens * state.ple.dim(1) * kernels::SizeOf(dtype_);
  if (wanted_ple_.bytes() < bytes) wanted_ple_ = backend_.Allocate(bytes);
  state.ple = keep(state.ple, wanted_ple_);
}

kernels::AttentionShape Gemma4::AttentionShapeOf(bool full) const {
  for (const LayerShape& layer : config_.layers) {
    if (layer.full != full) continue;
    return {.num_q_heads = config_.num_q_heads,
            .num_kv_heads = layer.num_kv_heads,
            .head_dim = layer.head_dim,
            .window = full ? 0 : config_.window};
  }
  return {};
}

TensorView Gemma4::LogitsFor(int64_t num_rows) {
  const int64_t row_bytes = config_.vocab * kernels::SizeOf(DType::kF32);
  // In powers of two, so that a batch that grows does not move them with each row.
  const auto rows = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(num_rows)));
  if (logits_.bytes() < num_rows * row_bytes) {
    logits_ = kernels::Buffer();
    logits_ = backend_.Allocate(std::min<int64_t>(rows, buffers_.step_tokens_max) * row_bytes);
  }
  return TensorView(logits_.data(), DType::kF32, {num_rows, config_.vocab});
}

void Gemma4::Embed(const ConstTensorView& ids,
                   const ConstTensorView& last_tokens,
                   StepState& state) {
  float scale = kernels::RoundTo(dtype_, std::sqrt(static_cast<float>(config_.hidden)));
  if (Misread(Misreading::kEmbeddingScaleIgnored)) scale = 1;
  if (Misread(Misreading::kEmbeddingScaleRounded)) scale = kernels::RoundToBf16(scale);
  std::span<const int32_t> placeholders = config_.placeholder_ids;
  if (Misread(Misreading::kPlaceholderKept)) placeholders = {};
  const TensorView resolved(buffers_.ids.data(), DType::kI32, {state.num_tokens});
  backend_.Embed({.ids = ids,
                  .last_tokens = last_tokens,
                  .placeholders = placeholders,
                  .pad_id = config_.pad_id,
                  .table = weights_.embedding,
                  .scale = scale,
                  .resolved_ids = resolved,
                  .hidden = state.hidden});
  if (config_.has_ple()) {
    state.ple =
        state.View(buffers_.ple, static_cast<int64_t>(config_.num_layers) * config_.ple_size);
    PerLayerInputs(backend_, config_, weights_, resolved, state);
  }
}

Status Gemma4::Layer(int32_t i, ExpertExchange* exchange, StepState& state, const KvCache& kv) {
  const LayerShape& shape = config_.layers[i];
  const LayerWeights& weights = weights_.layers[i];
  Attention(backend_,
            {.config = config_,
             .shape = shape,
             .weights = weights,
             .inv_freq = shape.full ? full_inv_freq_.view : sliding_inv_freq_.view,
             .kv = kv.View(i)},
            state);
  if (exchange != nullptr) {
    return SharedMoe(backend_, config_, shape, weights, *exchange, state);
  }
  if (config_.has_experts()) {
    Moe(backend_, config_, shape, weights, state);
    return absl::OkStatus();
  }
  Mlp(backend_, config_, shape, weights, state);
  if (config_.has_ple()) InjectPerLayerInput(backend_, config_, i, weights, state);
  return absl::OkStatus();
}

void Gemma4::Head(const ConstTensorView& rows, const StepState& state, const TensorView& logits) {
  backend_.Head({.hidden = state.hidden,
                 .norm_weight = weights_.final_norm.view,
                 .weight = weights_.head_weight(),
                 .rows = rows,
                 .logits = logits,
                 .eps = config_.eps,
                 .softcap = config_.softcap});
}

}  // namespace facet::worker
