#include "worker/model/weights.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/clock.h"
#include "base/log.h"
#include "worker/model/direct_reader.h"

namespace facet::worker {
namespace {

using kernels::ConstTensorView;
using kernels::DType;

// Enough reads in flight for an NVMe drive; each takes a core only while it copies.
constexpr int kReaderThreads = 8;

std::string LayerName(const Gemma4Config& config, int32_t layer, const char* name) {
  return StrCat(config.prefix(), "layers.", layer, ".", name);
}

void AddAttention(const Gemma4Config& config, int32_t i, std::vector<ExpectedTensor>& tensors) {
  const LayerShape& layer = config.layers[i];
  const int64_t hidden = config.hidden;
  const int64_t q_rows = static_cast<int64_t>(config.num_q_heads) * layer.head_dim;
  const int64_t kv_rows = static_cast<int64_t>(layer.num_kv_heads) * layer.head_dim;
  const auto name = [&](const char* suffix) { return LayerName(config, i, suffix); };
  tensors.push_back({name("self_attn.q_proj.weight"), {q_rows, hidden}});
  if (!layer.shares_kv) {
    tensors.push_back({name("self_attn.k_proj.weight"), {kv_rows, hidden}});
    if (!layer.k_eq_v) tensors.push_back({name("self_attn.v_proj.weight"), {kv_rows, hidden}});
    tensors.push_back({name("self_attn.k_norm.weight"), {layer.head_dim}});
  }
  tensors.push_back({name("self_attn.q_norm.weight"), {layer.head_dim}});
  tensors.push_back({name("self_attn.o_proj.weight"), {hidden, q_rows}});
}

void AddFeedForward(const Gemma4Config& config, int32_t i, std::vector<ExpectedTensor>& tensors) {
  const int64_t hidden = config.hidden;
  const int64_t intermediate = config.layers[i].intermediate;
  const auto name = [&](const char* suffix) { return LayerName(config, i, suffix); };
  tensors.push_back({name("mlp.gate_proj.weight"), {intermediate, hidden}});
  tensors.push_back({name("mlp.up_proj.weight"), {intermediate, hidden}});
  tensors.push_back({name("mlp.down_proj.weight"), {hidden, intermediate}});
  if (config.has_ple()) {
    tensors.push_back({name("per_layer_input_gate.weight"), {config.ple_size, hidden}});
    tensors.push_back({name("per_layer_projection.weight"), {hidden, config.ple_size}});
    tensors.push_back({name("post_per_layer_input_norm.weight"), {hidden}});
  }
  if (config.has_experts()) {
    const int64_t experts = config.num_experts;
    const int64_t width = config.expert_intermediate;
    tensors.push_back({name("router.proj.weight"), {experts, hidden}});
    tensors.push_back({name("router.scale"), {hidden}});
    tensors.push_back({name("router.per_expert_scale"), {experts}});
    tensors.push_back({name("experts.gate_up_proj"), {experts, 2 * width, hidden}, true});
    tensors.push_back({name("experts.down_proj"), {experts, hidden, width}, true});
    for (const char* norm :
         {"pre_feedforward_layernorm_2.weight", "post_feedforward_layernorm_1.weight",
          "post_feedforward_layernorm_2.weight"}) {
      tensors.push_back({name(norm), {hidden}});
    }
  }
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return StoredTensor{.shape = shape}.ShapeText();
}

// Reads checked tensors onto a backend and counts what it read.
class Loader {
 public:
  Loader(const Gemma4Config& config,
         const Checkpoint& checkpoint,
         const ExpertShare& share,
         DType dtype,
         kernels::Backend& backend,
         const LoadProgress& progress)
      : config_(config),
        checkpoint_(checkpoint),
        share_(share),
        dtype_(dtype),
        backend_(backend),
        progress_(progress) {
    for (const ExpectedTensor& tensor : ExpectedTensors(config)) {
      const int64_t bytes = checkpoint.Find(tensor.name)->bytes;
      bytes_total_ += tensor.experts ? bytes / share.num_ranks : bytes;
    }
  }

  int64_t bytes_read() const { return bytes_read_; }

  // A tensor as a view over the mapped file; rank 3 is seen as [rows, cols] of all its parts.
  ConstTensorView View(const std::string& name) const {
    const StoredTensor& tensor = *checkpoint_.Find(name);
    const DType dtype = tensor.dtype == "BF16" ? DType::kBf16 : DType::kF32;
    if (tensor.shape.size() == 1) return ConstTensorView(tensor.data, dtype, {tensor.shape[0]});
    const int64_t cols = tensor.shape.back();
    return ConstTensorView(tensor.data, dtype, {tensor.num_elements() / cols, cols});
  }

  kernels::PackedWeight Pack(const std::string& name) {
    kernels::PackedWeight packed = backend_.Pack(View(name), kernels::FormatOf(dtype_));
    Count(name);
    return packed;
  }

  kernels::HostTable Table(const std::string& name) { return backend_.KeepTable(View(name)); }

  DeviceVector Vector(const std::string& name) {
    const ConstTensorView host = View(name);
    DeviceVector vector;
    vector.buffer = backend_.Upload(host, dtype_);
    vector.view = ConstTensorView(vector.buffer.data(), dtype_, {host.num_elements()});
    Count(name);
    return vector;
  }

  float Scalar(const std::string& name) {
    const ConstTensorView host = View(name);
    Count(name);
    return host.dtype() == DType::kBf16 ? kernels::ToFloat(*host.as<kernels::Bf16>())
                                        : *host.as<float>();
  }

  std::vector<kernels::ExpertWeights> Experts(int32_t layer) {
    const std::string gate_up = LayerName(config_, layer, "experts.gate_up_proj");
    const std::string down = LayerName(config_, layer, "experts.down_proj");
    const int64_t width = config_.expert_intermediate;
    const int64_t hidden = config_.hidden;
    std::vector<kernels::ExpertWeights> experts(share_.num_experts(config_));
    int64_t e = share_.first_expert(config_);
    for (kernels::ExpertWeights& expert : experts) {
      expert.gate = PackRows(gate_up, 2 * e * width, width);
      expert.up = PackRows(gate_up, (2 * e + 1) * width, width);
      expert.down = PackRows(down, e * hidden, hidden);
      ++e;
    }
    Count(gate_up, share_.num_ranks);
    Count(down, share_.num_ranks);
    return experts;
  }

  LayerWeights Layer(int32_t i) {
    const LayerShape& shape = config_.layers[i];
    const auto name = [&](const char* suffix) { return LayerName(config_, i, suffix); };
    LayerWeights layer;
    layer.input_norm = Vector(name("input_layernorm.weight"));
    layer.post_attention_norm = Vector(name("post_attention_layernorm.weight"));
    layer.pre_feedforward_norm = Vector(name("pre_feedforward_layernorm.weight"));
    layer.post_feedforward_norm = Vector(name("post_feedforward_layernorm.weight"));
    layer.layer_scalar = Scalar(name("layer_scalar"));
    layer.q = Pack(name("self_attn.q_proj.weight"));
    if (!shape.shares_kv) {
      layer.k = Pack(name("self_attn.k_proj.weight"));
      if (!shape.k_eq_v) layer.v = Pack(name("self_attn.v_proj.weight"));
      layer.k_norm = Vector(name("self_attn.k_norm.weight"));
    }
    layer.q_norm = Vector(name("self_attn.q_norm.weight"));
    layer.o = Pack(name("self_attn.o_proj.weight"));
    layer.gate = Pack(name("mlp.gate_proj.weight"));
    layer.up = Pack(name("mlp.up_proj.weight"));
    layer.down = Pack(name("mlp.down_proj.weight"));
    if (config_.has_ple()) {
      layer.ple_gate = Pack(name("per_layer_input_gate.weight"));
      layer.ple_projection = Pack(name("per_layer_projection.weight"));
      layer.ple_norm = Vector(name("post_per_layer_input_norm.weight"));
    }
    if (config_.has_experts()) {
      layer.router = Pack(name("router.proj.weight"));
      layer.router_scale = Vector(name("router.scale"));
      layer.per_expert_scale = Vector(name("router.per_expert_scale"));
      layer.pre_feedforward_norm_2 = Vector(name("pre_feedforward_layernorm_2.weight"));
      layer.post_feedforward_norm_1 = Vector(name("post_feedforward_layernorm_1.weight"));
      layer.post_feedforward_norm_2 = Vector(name("post_feedforward_layernorm_2.weight"));
      layer.experts = Experts(i);
    }
    return layer;
  }

 private:
  kernels::PackedWeight PackRows(const std::string& name, int64_t first, int64_t rows) {
    const ConstTensorView all = View(name);
    const auto* data = static_cast<const std::byte*>(all.raw());
    const ConstTensorView part(data + first * all.dim(1) * kernels::SizeOf(all.dtype()),
                               all.dtype(), {rows, all.dim(1)});
    return backend_.Pack(part, kernels::FormatOf(dtype_));
  }

  // One of so many equal parts of the tensor was read.
  void Count(const std::string& name, int32_t num_parts = 1) {
    bytes_read_ += checkpoint_.Find(name)->bytes / num_parts;
    if (progress_) progress_(bytes_read_, bytes_total_);
  }

  const Gemma4Config& config_;
  const Checkpoint& checkpoint_;
  const ExpertShare share_;
  const DType dtype_;
  kernels::Backend& backend_;
  const LoadProgress& progress_;
  int64_t bytes_read_ = 0;
  int64_t bytes_total_ = 0;
};

// With tied embeddings a stored head still counts if it differs (transformers: tie_weights warns
// and uses it).
bool StoredHeadDiffers(const Checkpoint& checkpoint, const std::string& embedding) {
  const StoredTensor* head = checkpoint.Find("lm_head.weight");
  if (head == nullptr) return false;
  const StoredTensor* tied = checkpoint.Find(embedding);
  return head->dtype != tied->dtype || head->bytes != tied->bytes ||
         std::memcmp(head->data, tied->data, head->bytes) != 0;
}

}  // namespace

std::vector<ExpectedTensor> ExpectedTensors(const Gemma4Config& config) {
  const std::string prefix = config.prefix();
  const int64_t hidden = config.hidden;
  std::vector<ExpectedTensor> tensors;
  tensors.push_back({prefix + "embed_tokens.weight", {config.vocab, hidden}});
  if (!config.tied_head) tensors.push_back({"lm_head.weight", {config.vocab, hidden}});
  tensors.push_back({prefix + "norm.weight", {hidden}});
  if (config.has_ple()) {
    const int64_t width = static_cast<int64_t>(config.num_layers) * config.ple_size;
    tensors.push_back({prefix + "embed_tokens_per_layer.weight", {config.vocab_ple, width}});
    tensors.push_back({prefix + "per_layer_model_projection.weight", {width, hidden}});
    tensors.push_back({prefix + "per_layer_projection_norm.weight", {config.ple_size}});
  }
  for (int32_t i = 0; i < config.num_layers; ++i) {
    for (const char* norm :
         {"input_layernorm.weight", "post_attention_layernorm.weight",
          "pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight"}) {
      tensors.push_back({LayerName(config, i, norm), {hidden}});
    }
    tensors.push_back({LayerName(config, i, "layer_scalar"), {1}});
    AddAttention(config, i, tensors);
    AddFeedForward(config, i, tensors);
  }
  return tensors;
}

Status CheckTensors(const Gemma4Config& config, const Checkpoint& checkpoint) {
  for (const ExpectedTensor& expected : ExpectedTensors(config)) {
    const StoredTensor* stored = checkpoint.Find(expected.name);
    if (stored == nullptr) {
      if (expected.name == "lm_head.weight") {
        return InvalidArgument(
            "tensor lm_head.weight is missing, and tie_word_embeddings is false");
      }
      return InvalidArgument("tensor ", expected.name, " is missing; its shape should be ",
                             ShapeText(expected.shape));
    }
    if (stored->shape != expected.shape) {
      return InvalidArgument("tensor ", expected.name, " has shape ", stored->ShapeText(),
                             "; the config says ", ShapeText(expected.shape));
    }
    if (stored->dtype != "BF16" && stored->dtype != "F32") {
      return InvalidArgument("tensor ", expected.name, " is ", stored->dtype,
                             "; BF16 and F32 are served");
    }
  }
  const StoredTensor* head = checkpoint.Find("lm_head.weight");
  if (head != nullptr && head->shape != std::vector<int64_t>{config.vocab, config.hidden}) {
    return InvalidArgument("tensor lm_head.weight has shape ", head->ShapeText(),
                           "; the config says ", ShapeText({config.vocab, config.hidden}));
  }
  return absl::OkStatus();
}

StatusOr<Gemma4Weights> LoadGemma4Weights(Checkpoint checkpoint,
                                          const Gemma4Config& config,
                                          const ExpertShare& share,
                                          kernels::DType dtype,
                                          kernels::Backend& backend,
                                          const LoadProgress& progress) {
  const int64_t start_ns = Clock::Real().NowNs();
  Gemma4Weights weights;
  weights.checkpoint = std::move(checkpoint);
  FACET_RETURN_IF_ERROR(CheckTensors(config, weights.checkpoint));
  std::optional<DirectReader> reader;
  if (!backend.ReadsHostMemory()) {
    reader.emplace(weights.checkpoint, kReaderThreads);
    backend.SetHostReader(
        [&reader](void* to, const void* from, int64_t bytes) { reader->Read(to, from, bytes); });
  }
  Loader loader(config, weights.checkpoint, share, dtype, backend, progress);
  const std::string prefix = config.prefix();
  weights.embedding = loader.Pack(prefix + "embed_tokens.weight");
  if (!config.tied_head) {
    weights.head = loader.Pack("lm_head.weight");
  } else if (StoredHeadDiffers(weights.checkpoint, prefix + "embed_tokens.weight")) {
    Log(kWarning, "stored lm_head differs from the tied embedding and is used");
    weights.head = backend.Pack(loader.View("lm_head.weight"), kernels::FormatOf(dtype));
  }
  weights.final_norm = loader.Vector(prefix + "norm.weight");
  if (config.has_ple()) {
    weights.ple_table = loader.Table(prefix + "embed_tokens_per_layer.weight");
    weights.ple_model_projection = loader.Pack(prefix + "per_layer_model_projection.weight");
    weights.ple_projection_norm = loader.Vector(prefix + "per_layer_projection_norm.weight");
  }
  for (int32_t i = 0; i < config.num_layers; ++i) weights.layers.push_back(loader.Layer(i));
  weights.bytes_read = loader.bytes_read();
  backend.EndLoading();
  if (reader) FACET_RETURN_IF_ERROR(reader->status());
  if (share.shared()) {
    Log(kInfo, "weights of a rank loaded",
        {{"rank", share.rank},
         {"num_ranks", share.num_ranks},
         {"experts_of_a_layer", share.num_experts(config)},
         {"bytes_read", weights.bytes_read},
         {"seconds", static_cast<double>(Clock::Real().NowNs() - start_ns) / 1e9}});
  }
  return weights;
}

}  // namespace facet::worker
