// The CUDA ops that are made of products and norms, run by the emulator: against the reference on
// shapes that leave every kind of remainder, and each row of a batch against the same row alone,
// bit for bit. What the ops store is rounded to bf16, which hides most changes in the order of a
// sum: the float32 sums of every kernel instance are compared as well.
//
// Tolerance: 2.5 bf16 steps of the output's scale, for the reasons in conformance_test.cc. The
// emulated device has 4 SMs, so that a few hundred rows choose the wide kernels.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/linear.cuh"
#include "kernels/reference/reference_backend.h"
#include "tests/conformance/fast_library.h"
#include "tests/support/cuda_emulator/scheduler.h"

namespace facet::kernels {
namespace {

constexpr int64_t kTokensMax = 130;
constexpr int64_t kVocab = 70;

// Sizes of a model, and values for every input that the ops take. Weights are bf16.
struct Shape {
  const char* name;
  int64_t hidden;
  int64_t wide;  // Intermediate; and q rows.
  int64_t narrow;
  int64_t ple_size;
  bool f32_table;
};

const Shape kShapes[] = {
    {.name = "few_rows", .hidden = 264, .wide = 72, .narrow = 23, .ple_size = 24},
    // 7 blocks of columns where hidden is summed: segments without a block.
    {.name = "many_rows", .hidden = 200, .wide = 536, .narrow = 40, .ple_size = 40},
    {.name = "long_sums",
     .hidden = 1032,
     .wide = 24,
     .narrow = 1,
     .ple_size = 8,
     .f32_table = true},
};

constexpr int kPleLayers = 3;

using Values = std::vector<float>;

// Outputs of an op: width values for each of its tokens.
struct Output {
  const char* name;
  int64_t width;
  Values values;
};

// Host inputs, the same for all backends.
class Inputs {
 public:
  explicit Inputs(const Shape& shape) : shape_(shape) {}

  const Shape& shape() const { return shape_; }

  // Normal values in bf16, the same whenever the name is asked for.
  const std::vector<Bf16>& Get(const std::string& name, int64_t size, float mean, float deviation) {
    std::vector<Bf16>& values = tensors_[name];
    if (values.empty()) {
      std::seed_seq seed(name.begin(), name.end());
      std::mt19937 random(seed);
      std::normal_distribution<float> normal(mean, deviation);
      for (int64_t i = 0; i < size; ++i) values.push_back(ToBf16(normal(random)));
    }
    return values;
  }

  void Set(const std::string& name, std::vector<Bf16> values) {
    tensors_[name] = std::move(values);
  }

 private:
  const Shape shape_;
  std::map<std::string, std::vector<Bf16>> tensors_;
};

// One backend with the inputs on it; an op sees tokens [first, first + count).
class Machine {
 public:
  Machine(Backend& backend, Inputs& inputs) : backend_(backend), inputs_(inputs) {}

  Backend& backend() { return backend_; }

  const Shape& shape() const { return inputs_.shape(); }

  void ChooseTokens(int64_t first, int64_t count) {
    first_ = first;
    count_ = count;
    backend_.BeginStep();
  }

  int64_t count() const { return count_; }

  PackedWeight& Weight(const std::string& name, int64_t rows, int64_t cols) {
    PackedWeight& weight = weights_[name];
    if (weight.empty()) {
      const auto& values =
          inputs_.Get(name, rows * cols, 0, 1 / std::sqrt(static_cast<float>(cols)));
      weight = backend_.Pack(ConstTensorView(values.data(), DType::kBf16, {rows, cols}),
                             WeightFormat::kBf16);
    }
    return weight;
  }

  ConstTensorView Norm(const std::string& name, int64_t size) {
    const auto& values = inputs_.Get(name, size, 1, 0.2F);
    return Upload(values.data(), DType::kBf16, {size});
  }

  // A host table, in the dtype that the shape wants.
  HostTable Table(int64_t width) {
    const auto& values = inputs_.Get("table", kVocab * width, 0, 1);
    if (!shape().f32_table) {
      return backend_.KeepTable(ConstTensorView(values.data(), DType::kBf16, {kVocab, width}));
    }
    for (const Bf16 value : values) f32_table_.push_back(ToFloat(value) * 1.001F);
    return backend_.KeepTable(ConstTensorView(f32_table_.data(), DType::kF32, {kVocab, width}));
  }

  // The chosen tokens' rows of an activation.
  TensorView Tokens(const std::string& name, int64_t width) {
    const auto& values = inputs_.Get(name, kTokensMax * width, 0, 1);
    return Upload(values.data() + first_ * width, DType::kBf16, {count_, width});
  }

  // Token ids of the chosen tokens.
  ConstTensorView Ids() {
    std::vector<int32_t> ids(static_cast<size_t>(count_));
    for (int64_t t = 0; t < count_; ++t) {
      ids[t] = static_cast<int32_t>((first_ + t) * 37 % kVocab);
    }
    return Ints(ids);
  }

  ConstTensorView Ints(const std::vector<int32_t>& ints) {
    staged_.push_back(ints);
    const ConstTensorView staged = backend_.StageInts(staged_.back());
    backend_.SendStaged();
    return staged;
  }

  TensorView Empty(DType dtype, int64_t rows, int64_t width) {
    buffers_.push_back(backend_.Allocate(rows * width * SizeOf(dtype)));
    return TensorView(buffers_.back().data(), dtype, {rows, width});
  }

  TensorView EmptyInts(int64_t count) {
    return TensorView(Empty(DType::kI32, count, 1).raw(), DType::kI32, {count});
  }

  Output Fetch(const char* name, const TensorView& view) {
    Values values(static_cast<size_t>(view.num_elements()));
    if (view.dtype() == DType::kF32) {
      backend_.CopyToHost(values.data(), view.raw(), view.num_elements() * 4);
    } else {
      std::vector<Bf16> rounded(values.size());
      backend_.CopyToHost(rounded.data(), view.raw(), view.num_elements() * 2);
      for (size_t i = 0; i < values.size(); ++i) values[i] = ToFloat(rounded[i]);
    }
    return {.name = name, .width = view.dim(1), .values = std::move(values)};
  }

 private:
  TensorView Upload(const void* data, DType dtype, std::initializer_list<int64_t> shape) {
    buffers_.push_back(backend_.Upload(ConstTensorView(data, dtype, shape), dtype));
    return TensorView(buffers_.back().data(), dtype, shape);
  }

  Backend& backend_;
  Inputs& inputs_;
  int64_t first_ = 0;
  int64_t count_ = 0;
  std::map<std::string, PackedWeight> weights_;
  std::vector<Buffer> buffers_;
  std::vector<float> f32_table_;
  std::vector<std::vector<int32_t>> staged_;
};

// --- The ops, each with all of its outputs ----------------------------------------------------

using Op = std::vector<Output> (*)(Machine& m);

std::vector<Output> Embed(Machine& m) {
  const int64_t hidden = m.shape().hidden;
  const TensorView out = m.Empty(DType::kBf16, m.count(), hidden);
  m.backend().Embed({.ids = m.Ids(),
                     .table = m.Weight("embedding", kVocab, hidden),
                     .scale = 9.75F,
                     .resolved_ids = m.EmptyInts(m.count()),
                     .hidden = out});
  return {m.Fetch("hidden", out)};
}

std::vector<Output> PleInputs(Machine& m) {
  const int64_t hidden = m.shape().hidden;
  const int64_t width = kPleLayers * m.shape().ple_size;
  const TensorView out = m.Empty(DType::kBf16, m.count(), width);
  const HostTable table = m.Table(width);
  m.backend().PleInputs({m.Ids(), table.view, m.Tokens("hidden", hidden),
                         m.Weight("ple projection", width, hidden),
                         m.Norm("ple norm", m.shape().ple_size), 4.0F, 0.1F, 1e-5F, out});
  return {m.Fetch("ple", out)};
}

std::vector<Output> NormQkv(Machine& m) {
  const int64_t hidden = m.shape().hidden;
  const PackedWeight& q = m.Weight("q", m.shape().wide, hidden);
  const PackedWeight& k = m.Weight("k", m.shape().narrow, hidden);
  const PackedWeight& v = m.Weight("v", m.shape().narrow, hidden);
  std::vector<Output> outputs;
  for (int parts = 1; parts <= 3; ++parts) {
    const TensorView out = m.Empty(DType::kBf16, m.count(), q.rows + (parts - 1) * k.rows);
    m.backend().NormQkv({m.Tokens("hidden", hidden), m.Norm("input norm", hidden), 1e-6F, &q,
                         parts > 1 ? &k : nullptr, parts > 2 ? &v : nullptr, out});
    outputs.push_back(m.Fetch("qkv", out));
  }
  return outputs;
}

std::vector<Output> OutputProj(Machine& m) {
  const TensorView out = m.Empty(DType::kBf16, m.count(), m.shape().hidden);
  m.backend().OutputProj({m.Tokens("attention", m.shape().wide),
                          m.Weight("output", m.shape().hidden, m.shape().wide), out});
  return {m.Fetch("out", out)};
}

std::vector<Output> NormGateUp(Machine& m) {
  const int64_t hidden = m.shape().hidden;
  const TensorView residual = m.Tokens("hidden", hidden);
  const TensorView act = m.Empty(DType::kBf16, m.count(), m.shape().wide);
  m.backend().NormGateUp({residual, m.Tokens("branch", hidden), m.Norm("norm 1", hidden),
                          m.Norm("norm 2", hidden), 1e-6F, m.Weight("gate", m.shape().wide, hidden),
                          m.Weight("up", m.shape().wide, hidden), act});
  return {m.Fetch("hidden", residual), m.Fetch("act", act)};
}

std::vector<Output> MlpDown(Machine& m) {
  const int64_t hidden = m.shape().hidden;
  std::vector<Output> outputs;
  for (const bool finish : {false, true}) {
    const TensorView residual = m.Tokens("hidden", hidden);
    const TensorView out = m.Empty(DType::kBf16, m.count(), hidden);
    m.backend().MlpDown({m.Tokens("act", m.shape().wide), m.Weight("down", hidden, m.shape().wide),
                         out, finish ? residual : TensorView(), m.Norm("norm 1", hidden), 0.7F,
                         1e-6F});
    outputs.push_back(m.Fetch("out", out));
    outputs.push_back(m.Fetch("hidden", residual));
  }
  return outputs;
}

std::vector<Output> PleInject(Machine& m) {
  const int64_t hidden = m.shape().hidden;
  const int64_t ple_size = m.shape().ple_size;
  const TensorView residual = m.Tokens("hidden", hidden);
  m.backend().PleInject(
      {residual, m.Tokens("branch", hidden), m.Norm("norm 1", hidden),
       m.Weight("ple gate", ple_size, hidden), m.Tokens("ple", kPleLayers * ple_size), 1,
       m.Weight("ple up", hidden, ple_size), m.Norm("norm 2", hidden), 0.9F, 1e-6F});
  return {m.Fetch("hidden", residual)};
}

// Every token's logits, with and without a cap; alone, a token is also one of two.
std::vector<Output> Head(Machine& m) {
  const int64_t hidden = m.shape().hidden;
  const int64_t vocab = m.shape().wide + 5;
  std::vector<int32_t> rows(static_cast<size_t>(m.count()));
  for (int64_t t = 0; t < m.count(); ++t) rows[t] = static_cast<int32_t>(t);
  std::vector<Output> outputs;
  for (const float softcap : {0.0F, 3.0F}) {
    const TensorView logits = m.Empty(DType::kF32, m.count(), vocab);
    m.backend().Head({m.Tokens("hidden", hidden), m.Norm("final norm", hidden),
                      m.Weight("head", vocab, hidden), m.Ints(rows), logits, 1e-6F, softcap});
    outputs.push_back(m.Fetch("logits", logits));
  }
  return outputs;
}

struct OpCase {
  const char* name;
  Op op;
};

void PrintTo(const OpCase& op, std::ostream* out) { *out << op.name; }

void PrintTo(const Shape& shape, std::ostream* out) { *out << shape.name; }

const OpCase kOps[] = {{"Embed", Embed},           {"PleInputs", PleInputs},
                       {"NormQkv", NormQkv},       {"OutputProj", OutputProj},
                       {"NormGateUp", NormGateUp}, {"MlpDown", MlpDown},
                       {"PleInject", PleInject},   {"Head", Head}};

class CudaLinearTest : public testing::TestWithParam<std::tuple<OpCase, Shape>> {
 protected:
  CudaLinearTest() : inputs_(std::get<1>(GetParam())), cuda_(CudaOptions{}) {}

  std::vector<Output> Run(Backend& backend, int64_t first_token, int64_t num_tokens) {
    Machine machine(backend, inputs_);
    machine.ChooseTokens(first_token, num_tokens);
    return std::get<0>(GetParam()).op(machine);
  }

  static void ExpectNear(const std::vector<Output>& want, const std::vector<Output>& got) {
    for (size_t o = 0; o < want.size(); ++o) {
      float scale = 1e-3F;
      for (const float value : want[o].values) scale = std::max(scale, std::abs(value));
      for (size_t i = 0; i < want[o].values.size(); ++i) {
        ASSERT_NEAR(got[o].values[i], want[o].values[i], scale * 2.5F / 256)
            << want[o].name << ", output " << o << ", token " << i / want[o].width << " of "
            << want[o].values.size() / want[o].width << ", column " << i % want[o].width;
      }
    }
  }

  Inputs inputs_;
  ReferenceBackend reference_;
  CudaBackend cuda_;
};

TEST_P(CudaLinearTest, AgreesWithTheReference) {
  for (const int64_t num_tokens : {1, 3, 8, 17, 64, 65, 130}) {
    ExpectNear(Run(reference_, 0, num_tokens), Run(cuda_, 0, num_tokens));
  }
}

// The fast table; what the products add up is float32 there as well.
TEST_P(CudaLinearTest, AgreesWithTheReferenceWhereProductsAreCublasLts) {
  const std::shared_ptr<CublasLt> library = FastLibrary();
  CudaBackend fast(CudaOptions{.cublas_lt = library, .fast_rows_min = 65});
  const std::vector<Output> few = Run(fast, 0, 64);
  EXPECT_EQ(library->num_products(), 0);
  ExpectNear(Run(reference_, 0, 64), few);
  for (const int64_t num_tokens : {65, 130}) {
    ExpectNear(Run(reference_, 0, num_tokens), Run(fast, 0, num_tokens));
  }
  const std::string op = std::get<0>(GetParam()).name;
  EXPECT_EQ(library->num_products() == 0, op == "Embed" || op == "Head");
}

TEST_P(CudaLinearTest, GivesATokenTheSameBitsInEveryBatch) {
  std::map<int64_t, std::vector<Output>> alone;
  for (const int64_t token : {0, 3, 4, 7, 8, 32, 63, 64, 100, 129}) {
    alone[token] = Run(cuda_, token, 1);
  }
  for (const int64_t num_tokens : {4, 5, 8, 9, 33, 64, 65, 130}) {
    const std::vector<Output> batch = Run(cuda_, 0, num_tokens);
    for (const auto& [token, want] : alone) {
      if (token >= num_tokens) continue;
      for (size_t o = 0; o < want.size(); ++o) {
        const float* row = batch[o].values.data() + token * want[o].width;
        EXPECT_EQ(std::memcmp(row, want[o].values.data(), want[o].values.size() * sizeof(float)), 0)
            << want[o].name << ", output " << o << ", token " << token << " of " << num_tokens;
      }
    }
  }
}

// --- The sums themselves ----------------------------------------------------------------------

// sums[token, column], not rounded; of two weights, the first one's columns and then the other's.
template <int kNumMatrices>
struct RawSums {
  static constexpr int kMatrices = kNumMatrices;
  static constexpr int kRowTilesMax = 4;

  float* sums = nullptr;
  int64_t rows = 0;

  void Store(int token, int64_t column, const float (&y)[kNumMatrices]) const {
    for (int m = 0; m < kNumMatrices; ++m) {
      sums[(token * kNumMatrices + m) * rows + column] = y[m];
    }
  }
};

class LinearSumsTest : public testing::TestWithParam<int64_t> {
 protected:
  LinearSumsTest() : cuda_(CudaOptions{}), inputs_(kShapes[0]), machine_(cuda_, inputs_) {
    machine_.ChooseTokens(0, kTokensMax);
    FACET_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) == cudaSuccess);
  }

  ~LinearSumsTest() override { FACET_CHECK(cudaStreamDestroy(stream_) == cudaSuccess); }

  template <int kMatrices>
  DenseWork<RawSums<kMatrices>> Work() {
    const int64_t cols = GetParam();
    sums_.assign(static_cast<size_t>(kTokensMax * kRows * kMatrices), -1);
    const TensorView x = machine_.Tokens("x", cols);
    auto work =
        MakeDenseWork("sums", x.raw(), kTokensMax, cols, RawSums<kMatrices>{sums_.data(), kRows});
    work.weights[0] = ViewOf(machine_.Weight("first", kRows, cols));
    if (kMatrices == 2) work.weights[1] = ViewOf(machine_.Weight("second", kRows, cols));
    machine_.Fetch("x", x);  // Waits for the copies and for packing.
    return work;
  }

  // The sums of all tokens as one instance computes them.
  template <int kMatrices, int kRowTiles, int kTokenTiles>
  Values Streamed() {
    const auto work = Work<kMatrices>();
    const dim3 grid(work.NumRowGroups(kRowTiles), CeilDiv<unsigned>(kTokensMax, 8 * kTokenTiles));
    FACET_CHECK((LaunchStream<kRowTiles, kTokenTiles>(work, grid, stream_)) == cudaSuccess);
    FACET_CHECK(cudaStreamSynchronize(stream_) == cudaSuccess);
    return sums_;
  }

  template <int kMatrices, int kWarpTiles>
  Values Tiled() {
    using Tile = TiledTile<DenseWork<RawSums<kMatrices>>, kWarpTiles>;
    const auto work = Work<kMatrices>();
    const dim3 grid(CeilDiv<unsigned>(kTokensMax, Tile::kTokens),
                    work.NumRowGroups(Tile::kRowTiles));
    FACET_CHECK((LaunchTiled<kWarpTiles>(work, grid, stream_)) == cudaSuccess);
    FACET_CHECK(cudaStreamSynchronize(stream_) == cudaSuccess);
    return sums_;
  }

  static constexpr int64_t kRows = 70;

  CudaBackend cuda_;
  Inputs inputs_;
  Machine machine_;
  cudaStream_t stream_ = nullptr;
  Values sums_;
};

TEST_P(LinearSumsTest, AreTheSameInEveryInstance) {
  const Values want = Streamed<1, 1, 1>();
  EXPECT_EQ((Streamed<1, 2, 1>()), want);
  EXPECT_EQ((Streamed<1, 1, 2>()), want);
  EXPECT_EQ((Streamed<1, 2, 4>()), want);
  EXPECT_EQ((Streamed<1, 1, 8>()), want);
  EXPECT_EQ((Streamed<1, 4, 8>()), want);
  EXPECT_EQ((Tiled<1, 1>()), want);
  EXPECT_EQ((Tiled<1, 2>()), want);
}

TEST_P(LinearSumsTest, AreTheSameInEveryInstanceForTwoWeights) {
  const Values want = Streamed<2, 1, 1>();
  EXPECT_EQ((Streamed<2, 1, 4>()), want);
  EXPECT_EQ((Streamed<2, 2, 8>()), want);
  EXPECT_EQ((Tiled<2, 2>()), want);
}

// The order that linear.cuh promises, taken apart: tokens that are zero outside one segment give
// that segment's sums.
TEST_P(LinearSumsTest, AreTheSumsOfEightSegmentsAddedUpwards) {
  const int64_t cols = GetParam();
  const auto num_blocks = static_cast<int>(NumColBlocks(cols));
  const Values want = Streamed<1, 1, 1>();
  Values sums(want.size(), 0.0F);
  const std::vector<Bf16> all = inputs_.Get("x", 0, 0, 0);
  for (int s = 0; s < kSegments; ++s) {
    std::vector<Bf16> part(all.size(), 0);
    for (int64_t i = 0; i < static_cast<int64_t>(all.size()); ++i) {
      const int64_t block = i % cols / kBlockCols;
      if (block >= s * num_blocks / 8 && block < (s + 1) * num_blocks / 8) {
        part[i] = all[i];
      }
    }
    inputs_.Set("x", part);
    const Values of_segment = Streamed<1, 1, 1>();
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += of_segment[i];
  }
  EXPECT_EQ(sums, want);
}

// Fewer blocks than segments, one each, a remainder of 8 columns, and some each.
INSTANTIATE_TEST_SUITE_P(Cols, LinearSumsTest, testing::Values(8, 104, 256, 264, 840));

INSTANTIATE_TEST_SUITE_P(Ops,
                         CudaLinearTest,
                         testing::Combine(testing::ValuesIn(kOps), testing::ValuesIn(kShapes)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param).name) + "_" +
                                  std::get<1>(test.param).name;
                         });

TEST(CudaProbeTest, RefusesADeviceWithTooLittleSharedMemory) {
  cuda_emulator::options().smem_bytes = size_t{99} * 1024;
  CudaDeviceInfo info;
  EXPECT_EQ(
      CudaBackend::Probe(0, info),
      "Emulated GPU has 99 KiB of shared memory for a block; at least 163 are needed (compute "
      "capability 8.0, 9.0 or 10.0)");
  cuda_emulator::options() = cuda_emulator::Options();
  EXPECT_EQ(CudaBackend::Probe(0, info), "");
}

}  // namespace
}  // namespace facet::kernels
