// What the cases of kernel_bench share: one device, memory that is never zero, a stopwatch, and the
// table in which every figure stands beside the ceiling that it is held against.
//
// How a case is timed. The op runs a few times first (scratch memory grows, code is loaded), its
// outputs hold NaN before that. Then a CUDA graph of enough calls to fill a millisecond is replayed
// several times back to back with an event after each replay, and the median over the replays is
// reported with the least and the most. Successive calls take the next of several sets of inputs,
// together larger than any L2, because a decode step finds its weights in memory and not in cache.
// Afterwards no output may hold a value that is not finite. Every CUDA error ends the process.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/cuda_backend.h"
#include "worker/model/model_shape.h"

namespace facet::bench {

struct BenchOptions {
  // Small shapes and few calls: runs the code, on the emulator too, and claims no times.
  bool check = false;
  // The `fast` kernel table, with the library at this path or, if that is empty, the loader's.
  bool fast = false;
  std::string cublas_lt;
  bool graphs = true;  // False: calls are enqueued one by one, and the host may be what is timed.
  int device = 0;
  int replays = 9;
  double replay_seconds = 1e-3;  // Calls are repeated until a replay takes this long.
  int64_t rotation_bytes = int64_t{256}
                           << 20;         // Of all sets of inputs; the L2 of an H200 is 60 MB.
  int64_t weight_bytes_min = 32'000'000;  // Smaller weight matrices are no case.
};

// Microseconds for one call.
struct Timing {
  double median_us = 0;
  double least_us = 0;
  double most_us = 0;
};

// Rates of the device, each measured in this run. 0: could not be measured.
struct Ceilings {
  double copy_gbps = 0;  // Of a copy, bytes read and bytes written both counted.
  double read_gbps = 0;
  double product_tflops = 0;  // cuBLASLt, bf16, 8192 x 8192 x 8192.
};

// The shares of a ceiling that the project asks of a case; 0: nothing is asked.
struct Bar {
  double must = 0;
  double good = 0;
};

struct CaseFigures {
  std::string op;     // "norm_gate_up"
  std::string shape;  // "e4b", or the heads and the context
  int64_t tokens = 0;
  double bytes = 0;  // The fewest that have to be read and written: the floor.
  double flops = 0;
  Bar bar;
  // Sizes by name, from which tests/gpu/torch_peers.py makes the same work.
  std::vector<std::pair<const char*, int64_t>> sizes;
  Timing timing;
  int64_t num_not_finite = 0;
};

// Whether a call's work can be captured in a graph, or waits for the device inside.
enum class Replay { kGraph, kCalls };

class Bench {
 public:
  // The device must have passed CudaBackend::Probe; without library there is no `fast` table and no
  // ceiling of products. JSON lines go to json, if there is one.
  Bench(const BenchOptions& options, std::shared_ptr<kernels::CublasLt> library, std::FILE* json);

  void MeasureCeilings();

  const BenchOptions& options() const { return options_; }

  kernels::CudaBackend& backend() { return backend_; }

  cudaStream_t stream() const { return backend_.stream(); }

  const Ceilings& ceilings() const { return ceilings_; }

  // The published shapes of these names, or small ones like them where options().check.
  std::vector<worker::ModelShape> Shapes(std::initializer_list<const char*> names) const;

  // How many sets of so many bytes each make options().rotation_bytes; two for a check.
  int NumSets(int64_t set_bytes) const;

  // Device memory for count elements, filled with small random values.
  kernels::Buffer RandomValues(int64_t count);

  // The same as a view of [rows, cols] in bf16; the memory lives as long as the bench.
  kernels::TensorView RandomTensor(std::initializer_list<int64_t> shape);

  // One float32 or bf16 value everywhere; lives as long as the bench.
  kernels::ConstTensorView Constant(kernels::DType dtype, int64_t count, float value);

  // Random values, packed.
  kernels::PackedWeight RandomWeight(int64_t rows, int64_t cols);

  // An output: the memory is Time's to poison and to look through until Report.
  kernels::TensorView Output(kernels::DType dtype, std::initializer_list<int64_t> shape);

  // Times enqueue(i), the i-th call, which uses set i % num_sets of its inputs; as the comment on
  // top says. Each replay uses every set.
  Timing Time(Replay replay, int num_sets, const std::function<void(int)>& enqueue);

  // Prints the case beside its ceiling and as a JSON line, and forgets tensors of this case.
  void Report(CaseFigures figures);

  // Frees what RandomTensor, Constant and Output gave out.
  void ForgetTensors();

  int num_cases() const { return num_cases_; }

  // Cases whose outputs were not finite.
  int num_failed() const { return num_failed_; }

 private:
  struct PoisonedOutput {
    kernels::Buffer memory;
    kernels::DType dtype;
  };

  void RaiseClocks();
  void PoisonOutputs();
  int64_t CountNotFinite();
  void PrintCeiling(const char* name, double value, const char* unit, std::string_view note);

  const BenchOptions options_;
  const std::shared_ptr<kernels::CublasLt> library_;
  kernels::CudaBackend backend_;
  Ceilings ceilings_;
  std::vector<kernels::Bf16> host_values_;
  kernels::Buffer device_values_;  // The same.
  int64_t next_value_ = 0;         // Where the next weight's window into host_values_ begins.
  std::vector<kernels::Buffer> tensors_;
  std::vector<PoisonedOutput> outputs_;
  std::FILE* const json_;
  int num_cases_ = 0;
  int num_failed_ = 0;
};

// A failed call of the CUDA runtime ends the process.
void CheckCuda(cudaError_t error, const char* what);

// The groups of cases.
void RunLinearCases(Bench& bench);
void RunDecodeAttentionCases(Bench& bench);
void RunPrefillAttentionCases(Bench& bench);
void RunMoeCases(Bench& bench);
void RunSamplingCases(Bench& bench);

}  // namespace facet::bench
