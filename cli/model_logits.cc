#include "cli/model_logits.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <fstream>
#include <limits>
#include <memory>
#include <utility>

#include "base/progress_bar.h"
#include "kernels/open_backend.h"
#include "worker/engine/prompt_logits.h"
#include "worker/executor/model_executor.h"

namespace facet {
namespace {

using kernels::DType;

static_assert(std::endian::native == std::endian::little, "the file is little-endian");

constexpr int32_t kChunkTokensMax = 65'536;
constexpr int32_t kThreadsMax = 1024;

StatusOr<DType> ParseDType(const std::string& name) {
  if (name == "bf16") return DType::kBf16;
  if (name == "f32") return DType::kF32;
  return InvalidArgument("--dtype is ", name, "; bf16 and f32 exist");
}

// Enough for the whole prompt with no block given back, and a slab to spare for each geometry.
StatusOr<int64_t> KvBytesFor(const std::string& directory, DType dtype, int64_t num_tokens) {
  FACET_ASSIGN_OR_RETURN(const worker::Gemma4Config config, worker::LoadGemma4Config(directory));
  const auto shapes = worker::Gemma4::KvShapes(config, dtype);
  const int64_t bytes = worker::KvBytesOf(shapes, /*window=*/num_tokens + 1, num_tokens);
  FACET_ASSIGN_OR_RETURN(const worker::KvLayout layout,
                         worker::PlanKvLayout(shapes, config.window, int64_t{1} << 40));
  return (bytes / layout.slab_bytes + 4) * layout.slab_bytes * 2;
}

}  // namespace

StatusOr<std::vector<int32_t>> ParseIdList(const std::vector<std::string>& words) {
  std::vector<int32_t> ids;
  for (const std::string& word : words) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || end != word.data() + word.size() || id < 0) {
      return InvalidArgument("--ids holds \"", word, "\"; ids are whole numbers from 0 to ",
                             std::numeric_limits<int32_t>::max());
    }
    ids.push_back(id);
  }
  return ids;
}

Status WriteLogits(const LogitsOptions& options) {
  FACET_ASSIGN_OR_RETURN(const DType dtype, ParseDType(options.dtype));
  if (options.chunk_tokens < 1 || options.chunk_tokens > kChunkTokensMax) {
    return InvalidArgument("--chunk is ", options.chunk_tokens, "; it must be from 1 to ",
                           kChunkTokensMax);
  }
  if (options.threads < 0 || options.threads > kThreadsMax) {
    return InvalidArgument("--threads is ", options.threads, "; it must be from 0 to ",
                           kThreadsMax);
  }
  kernels::OpenedBackend opened = kernels::OpenBackend(
      {.device = options.device, .cpu_tier = options.cpu_tier, .threads = options.threads});
  if (opened.backend == nullptr) return InvalidArgument(opened.error);
  const auto num_tokens = static_cast<int64_t>(options.ids.size());
  FACET_ASSIGN_OR_RETURN(const int64_t kv_bytes,
                         KvBytesFor(options.model_directory, dtype, num_tokens));
  std::unique_ptr<worker::ModelExecutor> executor;
  {
    ProgressBar bar(StrCat("loading ", options.model_directory));
    FACET_ASSIGN_OR_RETURN(executor,
                           worker::ModelExecutor::Create(
                               {.model_directory = options.model_directory,
                                .dtype = dtype,
                                .kv_bytes = kv_bytes,
                                .running_max = 1,
                                .step_tokens_max = options.chunk_tokens},
                               std::move(opened.backend),
                               [&bar](int64_t done, int64_t total) { bar.Update(done, total); }));
  }
  std::ofstream out(options.out_file, std::ios::binary | std::ios::trunc);
  if (!out) return Unavailable("--out is ", options.out_file, ", which cannot be written");
  FACET_RETURN_IF_ERROR(worker::RunPromptLogits(
      *executor, options.ids, options.chunk_tokens, [&out](int64_t, std::span<const float> logits) {
        out.write(reinterpret_cast<const char*>(logits.data()),
                  static_cast<std::streamsize>(logits.size_bytes()));
      }));
  out.close();
  if (!out) return Unavailable("--out is ", options.out_file, ", which took not all logits");
  return absl::OkStatus();
}

}  // namespace facet
