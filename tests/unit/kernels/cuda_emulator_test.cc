// The emulator itself: that it gives what the device would, and that it says no where the device
// would give garbage. Budget: 5 s.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cuda/ptx.cuh"

namespace facet::kernels {
namespace {

using cuda_emulator::Options;

class CudaEmulatorTest : public testing::TestWithParam<const char*> {
 protected:
  CudaEmulatorTest() { cuda_emulator::options() = cuda_emulator::ParseOptions(GetParam()); }

  ~CudaEmulatorTest() override { cuda_emulator::options() = Options(); }
};

INSTANTIATE_TEST_SUITE_P(Modes,
                         CudaEmulatorTest,
                         testing::Values("order=forward,copies=lazy",
                                         "order=reverse,copies=eager",
                                         "order=random,copies=mixed,seed=1",
                                         "order=random,copies=lazy,seed=2"));

using CudaEmulatorDeathTest = CudaEmulatorTest;
INSTANTIATE_TEST_SUITE_P(Modes,
                         CudaEmulatorDeathTest,
                         testing::Values("order=forward,copies=lazy", "order=random,seed=3"));

template <typename... Params, typename... Args>
void RunKernel(dim3 grid, dim3 block, size_t smem_bytes, void (*kernel)(Params...), Args... args) {
  const ptx::LaunchShape shape{
      .grid = grid, .block = block, .smem_bytes = smem_bytes, .overlap_previous = false};
  ASSERT_EQ(ptx::Launch(shape, kernel, args...), cudaSuccess);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

void WriteIndices(int* out) {
  out[(blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x] =
      static_cast<int>(blockIdx.y * 1000 + blockIdx.x * 100 + threadIdx.x);
}

TEST_P(CudaEmulatorTest, EveryThreadOfTheGridRunsOnce) {
  std::vector<int> out(2 * 3 * 64, -1);
  RunKernel(dim3(3, 2), dim3(64), 0, WriteIndices, out.data());
  for (int y = 0; y < 2; ++y) {
    for (int x = 0; x < 3; ++x) {
      for (int i = 0; i < 64; ++i) {
        EXPECT_EQ(out[static_cast<size_t>((y * 3 + x) * 64 + i)], y * 1000 + x * 100 + i);
      }
    }
  }
}

void SumByShuffles(const float* in, float* out) {
  float value = in[threadIdx.x];
  for (int mask = 16; mask > 0; mask /= 2) value += ptx::ShuffleXor(value, mask);
  FACET_SHARED(sums, float[4]);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  ptx::SyncThreads();
  out[threadIdx.x] = sums[0] + sums[1] + sums[2] + sums[3];
}

TEST_P(CudaEmulatorTest, ShufflesAndSharedMemorySumABlock) {
  std::vector<float> in(128);
  std::iota(in.begin(), in.end(), 0.0F);
  std::vector<float> out(128);
  RunKernel(dim3(1), dim3(128), 0, SumByShuffles, static_cast<const float*>(in.data()), out.data());
  EXPECT_THAT(out, testing::Each(127 * 128 / 2));
}

// One warp multiplies a [16 x 16] by b [16 x 8], given as the fragments that PTX
// ISA 9.0, 9.7.14.5.8 draws: element by element, from this test's own reading of the figures.
void MultiplyFragments(const Bf16* a, const Bf16* b, float* d) {
  const auto lane = static_cast<int>(threadIdx.x);
  const int group = lane >> 2;
  const int in_group = lane & 3;
  uint32_t fa[4];
  uint32_t fb[2];
  for (int i = 0; i < 8; ++i) {
    const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
    const int col = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
    reinterpret_cast<Bf16*>(fa)[i] = a[row * 16 + col];
  }
  for (int i = 0; i < 4; ++i) {
    const int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
    reinterpret_cast<Bf16*>(fb)[i] = b[row * 8 + group];
  }
  float fd[4] = {};
  ptx::MmaBf16(fd, fa, fb);
  for (int i = 0; i < 4; ++i) {
    const int row = i < 2 ? group : group + 8;
    d[row * 8 + in_group * 2 + (i & 1)] = fd[i];
  }
}

TEST_P(CudaEmulatorTest, MmaMultipliesTheMatricesOfTheFragments) {
  std::mt19937 random(7);
  std::vector<Bf16> a(16 * 16);
  std::vector<Bf16> b(16 * 8);
  for (Bf16& value : a) value = ToBf16(static_cast<float>(random() % 17) - 8);
  for (Bf16& value : b) value = ToBf16(static_cast<float>(random() % 17) - 8);
  std::vector<float> d(16 * 8);
  RunKernel(dim3(1), dim3(32), 0, MultiplyFragments, static_cast<const Bf16*>(a.data()),
            static_cast<const Bf16*>(b.data()), d.data());
  for (size_t m = 0; m < 16; ++m) {
    for (size_t n = 0; n < 8; ++n) {
      float want = 0;
      for (size_t k = 0; k < 16; ++k) want += ToFloat(a[m * 16 + k]) * ToFloat(b[k * 8 + n]);
      EXPECT_EQ(d[m * 8 + n], want) << m << "," << n;
    }
  }
}

// Loads the four 8x8 matrices of a [16 x 16] tile, as they are or transposed, and stores each
// lane's two elements of each matrix.
void LoadMatrices(const Bf16* tile, uint32_t* plain, uint32_t* transposed) {
  ptx::SmemArena arena;
  Bf16* shared = arena.Take<Bf16>(16 * 16);
  const auto lane = static_cast<int>(threadIdx.x);
  ptx::CpAsync16(shared + lane * 8, tile + lane * 8);
  ptx::CpAsyncCommit();
  ptx::CpAsyncWait<0>();
  ptx::SyncWarp();
  const Bf16* row = shared + (lane % 8 + lane / 8 % 2 * 8) * 16 + lane / 16 * 8;
  uint32_t r[4];
  ptx::LdMatrixX4(r, row);
  for (int i = 0; i < 4; ++i) plain[lane * 4 + i] = r[i];
  ptx::LdMatrixX4Trans(r, row);
  for (int i = 0; i < 4; ++i) transposed[lane * 4 + i] = r[i];
}

TEST_P(CudaEmulatorTest, LdMatrixDealsRowsToLanes) {
  std::vector<Bf16> tile(16 * 16);
  for (size_t i = 0; i < tile.size(); ++i) tile[i] = static_cast<Bf16>(i);
  std::vector<uint32_t> plain(128);
  std::vector<uint32_t> transposed(128);
  RunKernel(dim3(1), dim3(32), tile.size() * 2, LoadMatrices, static_cast<const Bf16*>(tile.data()),
            plain.data(), transposed.data());
  for (uint32_t lane = 0; lane < 32; ++lane) {
    for (uint32_t m = 0; m < 4; ++m) {
      const uint32_t row0 = m % 2 * 8;
      const uint32_t col0 = m / 2 * 8;
      const uint32_t a = (row0 + lane / 4) * 16 + col0 + lane % 4 * 2;
      EXPECT_EQ(plain[lane * 4 + m], a | (a + 1) << 16);
      const uint32_t b = (row0 + lane % 4 * 2) * 16 + col0 + lane / 4;
      EXPECT_EQ(transposed[lane * 4 + m], b | (b + 16) << 16);
    }
  }
}

// A producer warp streams pieces through two stages to a consumer warp.
void StreamThroughStages(const float* in, float* out, int num_pieces) {
  ptx::SmemArena arena;
  float* stages = arena.Take<float>(2 * 32, 128);
  FACET_SHARED(full, uint64_t[2]);
  FACET_SHARED(empty, uint64_t[2]);
  if (threadIdx.x == 0) {
    for (int s = 0; s < 2; ++s) {
      ptx::MBarrierInit(&full[s], 1);
      ptx::MBarrierInit(&empty[s], 32);
    }
    ptx::MBarrierInitFence();
  }
  ptx::SyncThreads();
  if (threadIdx.x >= 32) {
    for (int i = 0; threadIdx.x == 32 && i < num_pieces; ++i) {
      ptx::MBarrierWait(&empty[i % 2], (i / 2 + 1) & 1);
      ptx::BulkCopyToShared(stages + i % 2 * 32, in + i * 32, 128, &full[i % 2]);
      ptx::MBarrierArriveExpect(&full[i % 2], 128);
    }
    return;
  }
  for (int i = 0; i < num_pieces; ++i) {
    ptx::MBarrierWait(&full[i % 2], i / 2 & 1);
    out[i * 32 + threadIdx.x] = 2 * stages[i % 2 * 32 + threadIdx.x];
    ptx::MBarrierArrive(&empty[i % 2]);
  }
}

TEST_P(CudaEmulatorTest, BulkCopiesArriveThroughTheirBarriers) {
  std::vector<float> in(7 * 32);
  std::iota(in.begin(), in.end(), 1.0F);
  std::vector<float> out(in.size());
  RunKernel(dim3(1), dim3(64), 256, StreamThroughStages, static_cast<const float*>(in.data()),
            out.data(), 7);
  for (size_t i = 0; i < in.size(); ++i) EXPECT_EQ(out[i], 2 * in[i]);
}

void CountBlocks(uint32_t* counter, uint32_t* last) {
  FACET_SHARED(is_last, bool);
  if (threadIdx.x == 0) is_last = ptx::AtomicAdd(counter, 1U) == gridDim.x - 1;
  ptx::SyncThreads();
  if (is_last && threadIdx.x == 0) ptx::AtomicAdd(last, 1U);
}

TEST_P(CudaEmulatorTest, OneBlockIsTheLast) {
  uint32_t counter = 0;
  uint32_t last = 0;
  RunKernel(dim3(17), dim3(64), 0, CountBlocks, &counter, &last);
  EXPECT_EQ(counter, 17U);
  EXPECT_EQ(last, 1U);
}

TEST_P(CudaEmulatorTest, AStreamsWorkRunsWhenItIsWaitedFor) {
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  uint32_t counter = 0;
  uint32_t last = 0;
  const ptx::LaunchShape shape{
      .grid = dim3(5), .block = dim3(32), .stream = stream, .overlap_previous = false};
  ASSERT_EQ(ptx::Launch(shape, CountBlocks, &counter, &last), cudaSuccess);
  EXPECT_EQ(counter, 0U);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(counter, 5U);
  ASSERT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

TEST_P(CudaEmulatorTest, AGraphReplaysWhatWasCaptured) {
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  uint32_t counter = 0;
  uint32_t last = 0;
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  const ptx::LaunchShape shape{
      .grid = dim3(5), .block = dim3(32), .stream = stream, .overlap_previous = false};
  ASSERT_EQ(ptx::Launch(shape, CountBlocks, &counter, &last), cudaSuccess);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  EXPECT_EQ(counter, 0U);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(counter, 15U);
  ASSERT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  ASSERT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  ASSERT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

struct Padded {
  char small;
  int64_t large;
};

void ReadsPadded(Padded) {}

// Bytes between members are no arguments.
TEST_P(CudaEmulatorTest, GraphsAreComparedByTheArgumentsOfTheirLaunches) {
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  const auto capture = [&](int64_t value, unsigned blocks, int filler) {
    Padded argument;
    std::memset(&argument, filler, sizeof(argument));
    argument.small = 1;
    argument.large = value;
    cudaGraph_t graph = nullptr;
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    ptx::Launch({.grid = dim3(blocks), .block = dim3(32), .stream = stream}, ReadsPadded, argument);
    cudaStreamEndCapture(stream, &graph);
    return graph;
  };
  cudaGraph_t graph = capture(5, 2, 0);
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  const auto difference = [&](int64_t value, unsigned blocks) {
    cudaGraph_t other = capture(value, blocks, 0x55);
    std::string text = cuda_emulator::FirstDifference(exec, other);
    cudaGraphDestroy(other);
    return text;
  };
  EXPECT_EQ(difference(5, 2), "");
  EXPECT_EQ(difference(6, 2), "launch 0 has other arguments");
  EXPECT_EQ(difference(5, 3), "launch 0 has other arguments");
  ASSERT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  ASSERT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  ASSERT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

// d = x y^T, then d += x y: y is read by rows of k and by columns, x from memory and from
// registers.
void ProductsOfWarpgroups(const Bf16* x, const Bf16* y, float* by_rows, float* by_columns) {
  ptx::SmemArena arena;
  auto* left = arena.Take<Bf16>(64 * 64, 1024);       // [64 rows][64 of k]
  auto* right = arena.Take<Bf16>(2 * 64 * 64, 1024);  // [2][64][64]: two halves of 128 columns.
  const auto thread = static_cast<int>(threadIdx.x);
  const auto swizzled = [](int row, int column) {
    return row * 64 + (column / 8 ^ row % 8) * 8 + column % 8;
  };
  for (int i = thread; i < 64 * 64; i += 128) left[swizzled(i / 64, i % 64)] = x[i];
  for (int i = thread; i < 64 * 128; i += 128) {
    right[i % 128 / 64 * 64 * 64 + swizzled(i / 128, i % 64)] = y[i];
  }
  ptx::SyncThreads();
  ptx::FenceProxyAsync();
  ptx::WgmmaFence();
  float rows[32];
  float columns[64] = {};
  uint32_t a[4][4];
  const int warp_row = thread / 32 * 16;
  for (int step = 0; step < 4; ++step) {
    ptx::LdMatrixX4(a[step],
                    left + swizzled(warp_row + thread % 16, 16 * step + thread % 32 / 16 * 8));
    ptx::WgmmaBf16<64>(rows, ptx::KMajor(left + 16 * step, 1024),
                       ptx::KMajor(right + 16 * step, 1024), step > 0);
    ptx::WgmmaBf16(columns, a[step], ptx::MnMajor(right + 16 * step * 64, 1024, 64 * 128));
  }
  ptx::WgmmaCommit();
  ptx::WgmmaWait<0>();
  ptx::WgmmaResult(rows);
  ptx::WgmmaResult(columns);
  const int row = warp_row + thread % 32 / 4;
  const int column = thread % 4 * 2;
  for (int i = 0; i < 64; ++i) {
    const int at_row = row + i / 2 % 2 * 8;
    const int at_column = i / 4 * 8 + column + i % 2;
    if (i < 32) by_rows[at_row * 64 + at_column] = rows[i];
    by_columns[at_row * 128 + at_column] = columns[i];
  }
}

TEST_P(CudaEmulatorTest, WarpgroupsMultiplyMatricesOfBothKinds) {
  std::vector<Bf16> x(64 * 64);
  std::vector<Bf16> y(64 * 128);  // [64][128]
  for (size_t i = 0; i < x.size(); ++i) x[i] = ToBf16(static_cast<float>(i * 7 % 15) - 7);
  for (size_t i = 0; i < y.size(); ++i) y[i] = ToBf16(static_cast<float>(i * 11 % 23) - 11);
  std::vector<float> by_rows(64 * 64);
  std::vector<float> by_columns(64 * 128);
  RunKernel(dim3(1), dim3(128), 3 * 64 * 64 * sizeof(Bf16), ProductsOfWarpgroups, x.data(),
            y.data(), by_rows.data(), by_columns.data());
  for (int m = 0; m < 64; ++m) {
    for (int n = 0; n < 128; ++n) {
      float rows = 0;
      float columns = 0;
      for (int k = 0; k < 64; ++k) {
        if (n < 64) rows += ToFloat(x[m * 64 + k]) * ToFloat(y[n * 128 + k]);
        columns += ToFloat(x[m * 64 + k]) * ToFloat(y[k * 128 + n]);
      }
      if (n < 64) {
        ASSERT_EQ(by_rows[m * 64 + n], rows) << m << ", " << n;
      }
      ASSERT_EQ(by_columns[m * 128 + n], columns) << m << ", " << n;
    }
  }
}

// --- What it refuses --------------------------------------------------------------------------

void ShuffleInTwoBranches(int* out) {
  int value = static_cast<int>(threadIdx.x);
  if (threadIdx.x < 16) {
    value = ptx::ShuffleXor(value, 1);
  } else {
    value = ptx::ShuffleXor(value, 2);
  }
  out[threadIdx.x] = value;
}

void ShuffleAfterAnExit(int* out) {
  if (threadIdx.x >= 16) return;
  out[threadIdx.x] = ptx::ShuffleXor(static_cast<int>(threadIdx.x), 1);
}

void BarrierInTwoBranches(int* out) {
  if (threadIdx.x < 32) {
    ptx::SyncThreads();
  } else {
    ptx::SyncThreads();
  }
  out[threadIdx.x] = 1;
}

void TooMuchSharedMemory(int* out) {
  ptx::SmemArena arena;
  arena.Take<int>(32)[threadIdx.x % 32] = 1;
  arena.Take<int>(32)[threadIdx.x % 32] = 1;
  out[threadIdx.x] = 1;
}

void ExitWithoutWaiting(int* out) {
  ptx::SmemArena arena;
  int* shared = arena.Take<int>(32 * 4);
  ptx::CpAsync16(shared + threadIdx.x % 32 * 4, out);
  ptx::CpAsyncCommit();
}

void WaitForNobody(int* out) {
  FACET_SHARED(barrier, uint64_t);
  if (threadIdx.x == 0) ptx::MBarrierInit(&barrier, 1);
  ptx::SyncThreads();
  ptx::MBarrierWait(&barrier, 0);
  out[threadIdx.x] = 1;
}

void ExpectBeforeTheCopy(int* out) {
  FACET_SHARED(barrier, uint64_t);
  if (threadIdx.x == 0) {
    ptx::MBarrierInit(&barrier, 1);
    ptx::MBarrierArriveExpect(&barrier, 128);
  }
  out[threadIdx.x] = 1;
}

void OnlyOneWarpWaits(int* out) {
  if (threadIdx.x < 32) ptx::GridDependencyWait();
  out[threadIdx.x] = 1;
}

// A product of zeros, as far as each case lets it come.
enum class Product { kNotFenced, kNotFencedForCopies, kBeginsInARow, kNotWaitedFor, kReadTooEarly };

template <Product kProduct>
void BadProduct(int* out) {
  ptx::SmemArena arena;
  auto* rows = arena.Take<Bf16>(64 * 64, 1024);
  for (int i = static_cast<int>(threadIdx.x); i < 64 * 64; i += 128) rows[i] = 0;
  ptx::SyncThreads();
  if (kProduct != Product::kNotFencedForCopies) ptx::FenceProxyAsync();
  if (kProduct != Product::kNotFenced) ptx::WgmmaFence();
  float d[32];
  const uint64_t matrix = ptx::KMajor(rows + (kProduct == Product::kBeginsInARow ? 64 : 0), 1024);
  ptx::WgmmaBf16<64>(d, matrix, matrix, false);
  ptx::WgmmaCommit();
  if (kProduct == Product::kNotWaitedFor) return;
  if (kProduct == Product::kReadTooEarly) ptx::WgmmaResult(d);
  ptx::WgmmaWait<0>();
  out[threadIdx.x] = static_cast<int>(d[0]);
}

struct Refusal {
  const char* name;
  void (*kernel)(int*);
  size_t smem_bytes;
  const char* message;
  bool overlap_previous = false;
};

const Refusal kRefusals[] = {
    {"a_shuffle_in_two_branches", ShuffleInTwoBranches, 0, "ShuffleXor meets lane"},
    {"a_shuffle_after_an_exit", ShuffleAfterAnExit, 0, "ShuffleXor: lane [0-9]+ has exited"},
    {"a_barrier_in_two_branches", BarrierInTwoBranches, 0, "other threads of the block wait at"},
    {"too_much_shared_memory", TooMuchSharedMemory, 128, "but the launch gave 128"},
    {"copies_under_way_at_the_end", ExitWithoutWaiting, 512, "asynchronous copies landed"},
    {"a_wait_that_never_ends", WaitForNobody, 0, "deadlock"},
    {"an_expectation_before_its_copy", ExpectBeforeTheCopy, 0, "comes before its bulk copies"},
    {"a_product_without_its_fence", BadProduct<Product::kNotFenced>, 8192, "without WgmmaFence"},
    {"a_product_of_what_threads_just_wrote", BadProduct<Product::kNotFencedForCopies>, 8192,
     "without FenceProxyAsync"},
    {"a_matrix_that_begins_in_row_1", BadProduct<Product::kBeginsInARow>, 8192, "behind row 0"},
    {"a_product_under_way_at_the_end", BadProduct<Product::kNotWaitedFor>, 8192,
     "before it has waited for this product"},
    {"a_result_before_its_wait", BadProduct<Product::kReadTooEarly>, 8192,
     "no WgmmaWait for a product"},
    {"a_launch_that_overtakes", OnlyOneWarpWaits, 0, "without GridDependencyWait", true},
};

TEST_P(CudaEmulatorDeathTest, RefusesWhatADeviceWouldGetWrong) {
  for (const Refusal& refusal : kRefusals) {
    SCOPED_TRACE(refusal.name);
    cuda_emulator::options().copies = cuda_emulator::Options::Copies::kLazy;
    std::vector<int> out(128 * 4);
    const auto run = [&] {
      static_cast<void>(ptx::Launch({.grid = dim3(1),
                                     .block = dim3(128),
                                     .smem_bytes = refusal.smem_bytes,
                                     .overlap_previous = refusal.overlap_previous},
                                    refusal.kernel, out.data()));
    };
    EXPECT_EXIT(run(), testing::ExitedWithCode(cuda_emulator::kErrorStatus), refusal.message);
  }
}

}  // namespace
}  // namespace facet::kernels
