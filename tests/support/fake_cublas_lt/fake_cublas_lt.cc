#include "tests/support/fake_cublas_lt/fake_cublas_lt.h"

#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/dtype.h"

namespace {

using facet::kernels::Bf16;
using facet::kernels::ToBf16;
using facet::kernels::ToFloat;

constexpr int kInvalid = 7;  // CUBLAS_STATUS_INVALID_VALUE

// Column-major: element (row, col) lies at col * leading + row.
struct Layout {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t leading = 0;
};

struct Description {
  int32_t transposes_a = 0;
};

facet::EnqueueWork enqueue_work = nullptr;

}  // namespace

// NOLINTBEGIN(readability-identifier-naming): cuBLASLt's names.
extern "C" {

void FakeCublasLtEnqueueBy(facet::EnqueueWork enqueue) { enqueue_work = enqueue; }

int cublasLtCreate(void** handle) {
  *handle = &enqueue_work;
  return 0;
}

int cublasLtMatmulDescCreate(void** desc, int /*compute*/, int /*scale*/) {
  *desc = new Description;
  return 0;
}

int cublasLtMatmulDescSetAttribute(void* desc, int attribute, const void* value, size_t size) {
  if (attribute != 3 || size != sizeof(int32_t)) return kInvalid;
  std::memcpy(&static_cast<Description*>(desc)->transposes_a, value, size);
  return 0;
}

int cublasLtMatmulDescDestroy(void* desc) {
  delete static_cast<Description*>(desc);
  return 0;
}

int cublasLtMatrixLayoutCreate(
    void** layout, int /*type*/, uint64_t rows, uint64_t cols, int64_t leading) {
  *layout = new Layout{static_cast<int64_t>(rows), static_cast<int64_t>(cols), leading};
  return leading >= static_cast<int64_t>(rows) ? 0 : kInvalid;
}

int cublasLtMatrixLayoutDestroy(void* layout) {
  delete static_cast<Layout*>(layout);
  return 0;
}

int cublasLtMatmulPreferenceCreate(void** preference) {
  *preference = new int;
  return 0;
}

int cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) { return 0; }

int cublasLtMatmulPreferenceDestroy(void* preference) {
  delete static_cast<int*>(preference);
  return 0;
}

int cublasLtMatmulAlgoGetHeuristic(
    void*, void*, void*, void*, void*, void*, void*, int, void* /*results*/, int* num_results) {
  *num_results = 1;
  return 0;
}

int cublasLtMatmul(void* /*handle*/,
                   void* desc,
                   const void* /*alpha: 1*/,
                   const void* a,
                   void* a_layout,
                   const void* b,
                   void* b_layout,
                   const void* /*beta: 0*/,
                   const void* c,
                   void* /*c_layout*/,
                   void* d,
                   void* d_layout,
                   const void* /*algorithm*/,
                   void* workspace,
                   size_t workspace_bytes,
                   cudaStream_t stream) {
  const Layout a_of = *static_cast<Layout*>(a_layout);
  const Layout b_of = *static_cast<Layout*>(b_layout);
  const Layout d_of = *static_cast<Layout*>(d_layout);
  const bool fits = static_cast<Description*>(desc)->transposes_a == 1 && a_of.rows == b_of.rows &&
                    a_of.cols == d_of.rows && b_of.cols == d_of.cols && c == d;
  if (!fits) return kInvalid;
  enqueue_work(stream, [=] {
    std::memset(workspace, 0xff, workspace_bytes);  // It is ours, and nobody relies on it.
    for (int64_t col = 0; col < d_of.cols; ++col) {
      for (int64_t row = 0; row < d_of.rows; ++row) {
        const Bf16* x = static_cast<const Bf16*>(a) + row * a_of.leading;
        const Bf16* y = static_cast<const Bf16*>(b) + col * b_of.leading;
        double sum = 0;
        for (int64_t k = 0; k < a_of.rows; ++k) {
          sum += static_cast<double>(ToFloat(x[k])) * static_cast<double>(ToFloat(y[k]));
        }
        static_cast<Bf16*>(d)[col * d_of.leading + row] = ToBf16(static_cast<float>(sum));
      }
    }
  });
  return 0;
}

}  // extern "C"
// NOLINTEND(readability-identifier-naming)
