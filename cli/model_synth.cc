#include "cli/model_synth.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/progress_bar.h"
#include "kernels/dtype.h"
#include "worker/model/gemma4_config.h"

namespace facet {
namespace {

using kernels::Bf16;
using worker::ExpectedTensor;
using Json = nlohmann::ordered_json;

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

constexpr int64_t kChunkElements = 4 << 20;

int64_t BytesOf(const ExpectedTensor& tensor) {
  return tensor.num_elements() * static_cast<int64_t>(sizeof(Bf16));
}

// SplitMix64's output function: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number
// Generators", 2014. As a function of a counter it needs no state.
uint64_t Mix(uint64_t counter) {
  uint64_t z = counter * 0x9e3779b97f4a7c15U;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

uint64_t KeyOf(std::string_view name, uint64_t seed) {
  uint64_t key = Mix(seed + 1);
  for (const char c : name) key = Mix(key ^ static_cast<unsigned char>(c));
  return key;
}

// Values of one tensor: mean + std * z, with z nearly normal.
struct Distribution {
  float mean = 0;
  float std = 0;
};

bool EndsWith(std::string_view text, std::string_view end) { return text.ends_with(end); }

// Values with which a deep random model stays finite and its logits vary: unit variance through
// every projection, attention scores that spread by about one (they are not divided by
// sqrt(head_dim), so q_norm is), and branches that add less than what they are added to.
Distribution DistributionOf(const ExpectedTensor& tensor) {
  const std::string_view name = tensor.name;
  const auto fan_in = static_cast<float>(tensor.shape.back());
  if (EndsWith(name, "q_norm.weight")) {
    const float centre = 1 / std::sqrt(fan_in);
    return {.mean = centre, .std = 0.05F * centre};
  }
  if (EndsWith(name, "post_attention_layernorm.weight") ||
      EndsWith(name, "post_feedforward_layernorm.weight") ||
      EndsWith(name, "post_per_layer_input_norm.weight")) {
    return {.mean = 0.5F, .std = 0.025F};
  }
  if (EndsWith(name, "layer_scalar")) return {.mean = 0.9F, .std = 0.025F};
  if (tensor.shape.size() == 1) return {.mean = 1, .std = 0.05F};
  if (EndsWith(name, "embed_tokens_per_layer.weight")) {
    // The model multiplies a row by sqrt of one layer's width, of which fan_in has one per layer.
    return {.mean = 0, .std = 1.0F / 16};
  }
  return {.mean = 0, .std = 1 / std::sqrt(fan_in)};
}

// Elements [first, first + out.size()) of a tensor. The sum of four uniform numbers is near enough
// to a normal one and costs one multiplication chain.
void Fill(uint64_t key, const Distribution& distribution, int64_t first, std::vector<Bf16>& out) {
  // Four numbers uniform in [0, 65535]: mean 131070, standard deviation 65536 * sqrt(4 / 12).
  const float scale = distribution.std / (65536.0F * 0.57735027F);
  const float shift = distribution.mean - 131070.0F * scale;
  for (size_t i = 0; i < out.size(); ++i) {
    const uint64_t bits = Mix(key + static_cast<uint64_t>(first) + i);
    const uint32_t sum =
        static_cast<uint32_t>(bits & 0xffff) + static_cast<uint32_t>(bits >> 16 & 0xffff) +
        static_cast<uint32_t>(bits >> 32 & 0xffff) + static_cast<uint32_t>(bits >> 48);
    out[i] = kernels::ToBf16(shift + scale * static_cast<float>(sum));
  }
}

std::string HeaderOf(const std::vector<ExpectedTensor>& tensors) {
  Json header = {{"__metadata__", {{"format", "pt"}}}};
  int64_t offset = 0;
  for (const ExpectedTensor& tensor : tensors) {
    header[tensor.name] = {{"dtype", "BF16"},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + BytesOf(tensor)}}};
    offset += BytesOf(tensor);
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

std::string ShardName(size_t number, size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", number, count);
  return name;
}

// A file being written; removed again unless Close succeeds.
class OutputFile {
 public:
  explicit OutputFile(std::string path) : path_(std::move(path)) {
    file_ = std::fopen(path_.c_str(), "wbx");
  }

  ~OutputFile() {
    if (file_ == nullptr) return;
    std::fclose(file_);
    std::remove(path_.c_str());
  }

  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  Status Write(const void* data, size_t bytes) {
    if (file_ != nullptr && std::fwrite(data, 1, bytes, file_) == bytes) return absl::OkStatus();
    return Error();
  }

  Status Close() {
    if (file_ == nullptr || std::fflush(file_) != 0) return Error();
    std::fclose(file_);
    file_ = nullptr;
    return absl::OkStatus();
  }

 private:
  Status Error() const { return Unavailable("cannot write ", path_, ": ", std::strerror(errno)); }

  const std::string path_;
  std::FILE* file_ = nullptr;
};

Status WriteText(const std::filesystem::path& path, const std::string& text) {
  OutputFile file(path.string());
  FACET_RETURN_IF_ERROR(file.Write(text.data(), text.size()));
  return file.Close();
}

Status WriteShard(const SynthShard& shard,
                  const std::filesystem::path& path,
                  uint64_t seed,
                  const std::function<void(int64_t)>& written) {
  OutputFile file(path.string());
  const uint64_t header_bytes = shard.header.size();
  FACET_RETURN_IF_ERROR(file.Write(&header_bytes, sizeof(header_bytes)));
  FACET_RETURN_IF_ERROR(file.Write(shard.header.data(), shard.header.size()));
  std::vector<Bf16> chunk;
  for (const ExpectedTensor& tensor : shard.tensors) {
    const uint64_t key = KeyOf(tensor.name, seed);
    const Distribution distribution = DistributionOf(tensor);
    const int64_t elements = tensor.num_elements();
    for (int64_t first = 0; first < elements; first += kChunkElements) {
      chunk.resize(static_cast<size_t>(std::min(kChunkElements, elements - first)));
      Fill(key, distribution, first, chunk);
      FACET_RETURN_IF_ERROR(file.Write(chunk.data(), chunk.size() * sizeof(Bf16)));
      written(static_cast<int64_t>(chunk.size() * sizeof(Bf16)));
    }
  }
  return file.Close();
}

Status PrepareDirectory(const std::filesystem::path& directory, int64_t bytes) {
  std::error_code error;
  if (std::filesystem::exists(directory, error)) {
    if (!std::filesystem::is_directory(directory, error)) {
      return FailedPrecondition(directory.string(), " is not a directory");
    }
    if (!std::filesystem::is_empty(directory, error)) {
      return FailedPrecondition(directory.string(), " is not empty; name a new directory");
    }
  }
  // Before it is made: a refusal leaves nothing behind.
  std::filesystem::path existing = std::filesystem::absolute(directory, error);
  while (!existing.empty() && !std::filesystem::exists(existing, error) &&
         existing != existing.parent_path()) {
    existing = existing.parent_path();
  }
  const std::filesystem::space_info space = std::filesystem::space(existing, error);
  if (error) return Unavailable("cannot tell the free space at ", existing.string());
  if (static_cast<uint64_t>(bytes) > space.available) {
    return ResourceExhausted("the model needs ", bytes, " bytes; ", existing.string(), " has ",
                             space.available, " free");
  }
  std::filesystem::create_directories(directory, error);
  if (error) return Unavailable("cannot make ", directory.string(), ": ", error.message());
  return absl::OkStatus();
}

}  // namespace

StatusOr<SynthPlan> PlanSynth(const worker::ModelShape& shape, int64_t shard_bytes_max) {
  SynthPlan plan{.config_json = worker::ConfigJson(shape)};
  FACET_ASSIGN_OR_RETURN(const worker::Gemma4Config config,
                         worker::ParseGemma4Config(plan.config_json));
  int64_t data_bytes = 0;
  for (ExpectedTensor& tensor : worker::ExpectedTensors(config)) {
    const int64_t bytes = BytesOf(tensor);
    if (plan.shards.empty() || plan.shards.back().data_bytes + bytes > shard_bytes_max) {
      plan.shards.emplace_back();
    }
    plan.num_parameters += tensor.num_elements();
    data_bytes += bytes;
    plan.shards.back().data_bytes += bytes;
    plan.shards.back().tensors.push_back(std::move(tensor));
  }
  Json weight_map = Json::object();
  for (size_t i = 0; i < plan.shards.size(); ++i) {
    SynthShard& shard = plan.shards[i];
    shard.file_name = ShardName(i + 1, plan.shards.size());
    shard.header = HeaderOf(shard.tensors);
    plan.bytes += shard.data_bytes + static_cast<int64_t>(shard.header.size() + sizeof(uint64_t));
    for (const ExpectedTensor& tensor : shard.tensors) weight_map[tensor.name] = shard.file_name;
  }
  if (plan.shards.size() > 1) {
    plan.index_json =
        Json{{"metadata", {{"total_parameters", plan.num_parameters}, {"total_size", data_bytes}}},
             {"weight_map", weight_map}}
            .dump(2) +
        "\n";
  }
  plan.bytes += static_cast<int64_t>(plan.index_json.size() + plan.config_json.size() +
                                     worker::GenerationConfigJson().size());
  return plan;
}

Status WriteSynth(const SynthPlan& plan, const std::string& directory, uint64_t seed) {
  const std::filesystem::path path(directory);
  FACET_RETURN_IF_ERROR(PrepareDirectory(path, plan.bytes));
  {
    ProgressBar bar(StrCat("writing ", directory));
    int64_t done = 0;
    for (const SynthShard& shard : plan.shards) {
      FACET_RETURN_IF_ERROR(WriteShard(shard, path / shard.file_name, seed, [&](int64_t bytes) {
        done += bytes;
        bar.Update(done, plan.bytes);
      }));
    }
    bar.Update(plan.bytes, plan.bytes);
  }
  if (!plan.index_json.empty()) {
    FACET_RETURN_IF_ERROR(WriteText(path / "model.safetensors.index.json", plan.index_json));
  }
  FACET_RETURN_IF_ERROR(WriteText(path / "generation_config.json", worker::GenerationConfigJson()));
  return WriteText(path / "config.json", plan.config_json);
}

}  // namespace facet
