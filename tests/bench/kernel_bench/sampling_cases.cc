// Choosing a token for each row of logits. What is timed is a step of Sample alone, from its
// beginning until its tokens are there: the host's part, what is staged, the kernel and the wait.
#include <random>

#include "tests/bench/kernel_bench/bench.h"

namespace facet::bench {
namespace {

using kernels::DType;

struct Way {
  const char* name;
  float temperature;
  int32_t top_k;
  float top_p;
};

// Greedy; plain; and the published generation_config.json.
constexpr Way kWays[] = {
    {"greedy", 0, 0, 1}, {"temperature 1", 1, 0, 1}, {"k 64, p 0.95", 1, 64, 0.95F}};

}  // namespace

void RunSamplingCases(Bench& bench) {
  const int64_t vocab = bench.options().check ? 300 : 262144;
  const std::vector<int64_t> batches =
      bench.options().check ? std::vector<int64_t>{3} : std::vector<int64_t>{1, 32, 128};
  for (const int64_t batch : batches) {
    std::vector<float> values(static_cast<size_t>(batch * vocab));
    std::mt19937 random(1);
    // Spread as logits are under the soft-cap of 30.
    for (float& value : values) value = static_cast<float>(random() % 4096) / 256 - 8;
    const kernels::Buffer logits = bench.backend().Upload(
        kernels::ConstTensorView(values.data(), DType::kF32, {batch * vocab}), DType::kF32);
    for (const Way& way : kWays) {
      std::vector<kernels::SampleRow> rows;
      for (int64_t r = 0; r < batch; ++r) {
        rows.push_back({.logits_row = static_cast<int32_t>(r),
                        .temperature = way.temperature,
                        .top_k = way.top_k,
                        .top_p = way.top_p,
                        .seed = static_cast<uint64_t>(r)});
      }
      std::vector<kernels::SampledToken> tokens;
      CaseFigures figures{.op = "sample",
                          .shape = way.name,
                          .tokens = batch,
                          .bytes = static_cast<double>(batch * vocab) * SizeOf(DType::kF32)};
      figures.timing = bench.Time(Replay::kCalls, 1, [&](int i) {
        bench.backend().BeginStep();
        for (kernels::SampleRow& row : rows) row.position = i;
        bench.backend().Sample(
            {.logits = kernels::ConstTensorView(logits.data(), DType::kF32, {batch, vocab}),
             .rows = rows});
        tokens = bench.backend().EndStep()->Wait().tokens;
      });
      FACET_CHECK_EQ(tokens.size(), rows.size());
      for (const kernels::SampledToken& token : tokens) {
        FACET_CHECK(token.finite && token.id >= 0 && token.id < vocab) << "token" << token.id;
      }
      bench.Report(std::move(figures));
    }
  }
}

}  // namespace facet::bench
