// cuBLASLt, opened at run time: the products of the `fast` kernel table, and the bench's ceiling.
// No program needs the library to start.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

namespace facet::kernels {

// c = a b^T with a [m, k], b [n, k] and c [m, n], row-major bf16 in device memory, float32 sums.
// The rows of c may be further apart than n.
struct Product {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  int64_t c_stride = 0;  // In elements; 0: n.
};

// One thread at a time.
class CublasLt {
 public:
  static constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;

  // Null, and why, if the file (or, where path is empty, libcublasLt.so.13 or .12 in the loader's
  // path, LD_LIBRARY_PATH among it) cannot be opened or lacks a function.
  static std::unique_ptr<CublasLt> Open(const std::string& path, std::string& why);
  ~CublasLt();

  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // Enqueues the product with kWorkspaceBytes of scratch memory; the algorithm for its shape is
  // chosen at the first call. False if cuBLASLt refuses.
  bool Enqueue(const Product& product, void* workspace, cudaStream_t stream);

  // How many were enqueued.
  int64_t num_products() const { return num_products_; }

 private:
  struct Functions;
  struct Layouts;
  // As cublasLtMatmulAlgo_t: opaque, and copied by value.
  using Algorithm = std::array<uint64_t, 8>;
  static constexpr size_t kAlgorithmsMax = 1024;  // Prefill chunks have all sizes.

  CublasLt();

  const Algorithm* AlgorithmFor(const Product& product, const Layouts& layouts);

  std::unique_ptr<Functions> functions_;
  void* handle_ = nullptr;  // Lives as long as the process does, as the library does.
  std::map<std::array<int64_t, 4>, Algorithm> algorithms_;  // By m, n, k, c_stride.
  int64_t num_products_ = 0;
};

}  // namespace facet::kernels
