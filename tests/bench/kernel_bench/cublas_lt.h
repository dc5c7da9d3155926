// cuBLASLt, opened at run time: the ceiling of a bf16 product. It is no part of what Facet needs;
// where the library is missing that ceiling is missing too.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <string>

namespace facet::bench {

// c = a b^T with a [m, k], b [n, k] and c [m, n], all row-major bf16 in device memory, float32
// sums.
struct Product {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
};

class CublasLt {
 public:
  // Null, and why, if there is no library in the loader's path (LD_LIBRARY_PATH among it) or it
  // lacks a function.
  static std::unique_ptr<CublasLt> Open(std::string& why);
  ~CublasLt();

  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // Chooses the algorithm for this product once, with so much scratch memory. False if none fits.
  bool Prepare(const Product& product, int64_t workspace_bytes);

  // The product that was prepared; false if cuBLASLt refuses.
  bool Enqueue(void* workspace, cudaStream_t stream);

 private:
  struct Functions;
  struct Plan;
  CublasLt();

  std::unique_ptr<Functions> functions_;
  std::unique_ptr<Plan> plan_;
};

}  // namespace facet::bench
