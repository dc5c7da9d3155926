#include "tests/bench/kernel_bench/cublas_lt.h"

#include <dlfcn.h>

namespace facet::bench {
namespace {

// The part of cublasLt.h (CUDA 12 and 13) that is used, so that the bench builds without the
// library's header. Handles are opaque; status 0 is success.
using Handle = void*;
using Status = int;

constexpr int kDataBf16 = 14;               // CUDA_R_16BF
constexpr int kDataFloat = 0;               // CUDA_R_32F
constexpr int kComputeFloat = 68;           // CUBLAS_COMPUTE_32F
constexpr int kDescTransA = 3;              // CUBLASLT_MATMUL_DESC_TRANSA
constexpr int32_t kTransposed = 1;          // CUBLAS_OP_T
constexpr int kPreferenceWorkspaceMax = 1;  // CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES

struct Algorithm {
  uint64_t data[8];
};

struct Heuristic {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

}  // namespace

struct CublasLt::Functions {
  Status (*create)(Handle*);
  Status (*desc_create)(Handle*, int compute, int scale);
  Status (*desc_set)(Handle, int attribute, const void*, size_t);
  Status (*layout_create)(Handle*, int type, uint64_t rows, uint64_t cols, int64_t leading);
  Status (*preference_create)(Handle*);
  Status (*preference_set)(Handle, int attribute, const void*, size_t);
  Status (*heuristic)(
      Handle, Handle desc, Handle a, Handle b, Handle c, Handle d, Handle, int, Heuristic*, int*);
  Status (*matmul)(Handle,
                   Handle desc,
                   const void* alpha,
                   const void* a,
                   Handle a_layout,
                   const void* b,
                   Handle b_layout,
                   const void* beta,
                   const void* c,
                   Handle c_layout,
                   void* d,
                   Handle d_layout,
                   const Algorithm*,
                   void* workspace,
                   size_t workspace_bytes,
                   cudaStream_t);
};

// Lives as long as the process does: the library's objects are few and are not given back.
struct CublasLt::Plan {
  Handle handle = nullptr;
  Handle desc = nullptr;
  Handle a = nullptr;
  Handle b = nullptr;
  Handle c = nullptr;
  Heuristic best{};
  size_t workspace_bytes = 0;
  Product product;
};

CublasLt::CublasLt() : functions_(std::make_unique<Functions>()), plan_(std::make_unique<Plan>()) {}

CublasLt::~CublasLt() = default;

std::unique_ptr<CublasLt> CublasLt::Open(std::string& why) {
  void* library = nullptr;
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}) {
    library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
  }
  if (library == nullptr) {
    why = "no libcublasLt.so.13 or .12 can be opened";
    return nullptr;
  }
  std::unique_ptr<CublasLt> lt(new CublasLt);
  const auto load = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    if (function == nullptr) why = std::string("libcublasLt lacks ") + name;
  };
  Functions& f = *lt->functions_;
  load(f.create, "cublasLtCreate");
  load(f.desc_create, "cublasLtMatmulDescCreate");
  load(f.desc_set, "cublasLtMatmulDescSetAttribute");
  load(f.layout_create, "cublasLtMatrixLayoutCreate");
  load(f.preference_create, "cublasLtMatmulPreferenceCreate");
  load(f.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  load(f.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  load(f.matmul, "cublasLtMatmul");
  if (!why.empty()) return nullptr;
  if (f.create(&lt->plan_->handle) != 0) {
    why = "cublasLtCreate failed";
    return nullptr;
  }
  return lt;
}

bool CublasLt::Prepare(const Product& product, int64_t workspace_bytes) {
  const Functions& f = *functions_;
  Plan& plan = *plan_;
  plan.product = product;
  plan.workspace_bytes = static_cast<size_t>(workspace_bytes);
  // cuBLAS counts by columns: row-major c is column-major c^T [n, m] = b a^T, with b^T stored [k,
  // n].
  Handle preference = nullptr;
  const auto size = [](int64_t value) { return static_cast<uint64_t>(value); };
  int found = 0;
  return f.desc_create(&plan.desc, kComputeFloat, kDataFloat) == 0 &&
         f.desc_set(plan.desc, kDescTransA, &kTransposed, sizeof(kTransposed)) == 0 &&
         f.layout_create(&plan.a, kDataBf16, size(product.k), size(product.n), product.k) == 0 &&
         f.layout_create(&plan.b, kDataBf16, size(product.k), size(product.m), product.k) == 0 &&
         f.layout_create(&plan.c, kDataBf16, size(product.n), size(product.m), product.n) == 0 &&
         f.preference_create(&preference) == 0 &&
         f.preference_set(preference, kPreferenceWorkspaceMax, &plan.workspace_bytes,
                          sizeof(plan.workspace_bytes)) == 0 &&
         f.heuristic(plan.handle, plan.desc, plan.a, plan.b, plan.c, plan.c, preference, 1,
                     &plan.best, &found) == 0 &&
         found > 0;
}

bool CublasLt::Enqueue(void* workspace, cudaStream_t stream) {
  const Plan& plan = *plan_;
  const float one = 1;
  const float zero = 0;
  return functions_->matmul(plan.handle, plan.desc, &one, plan.product.b, plan.a, plan.product.a,
                            plan.b, &zero, plan.product.c, plan.c, plan.product.c, plan.c,
                            &plan.best.algorithm, workspace, plan.workspace_bytes, stream) == 0;
}

}  // namespace facet::bench
