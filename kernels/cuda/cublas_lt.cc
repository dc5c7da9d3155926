#include "kernels/cuda/cublas_lt.h"

#include <dlfcn.h>

#include <type_traits>
#include <utility>
#include <vector>

namespace facet::kernels {
namespace {

// The part of cublasLt.h (CUDA 12 and 13) that is used, so that builds without the library's header
// have it. Handles are opaque; status 0 is success.
using Handle = void*;
using Status = int;

constexpr int kDataBf16 = 14;               // CUDA_R_16BF
constexpr int kDataFloat = 0;               // CUDA_R_32F
constexpr int kComputeFloat = 68;           // CUBLAS_COMPUTE_32F
constexpr int kDescTransA = 3;              // CUBLASLT_MATMUL_DESC_TRANSA
constexpr int32_t kTransposed = 1;          // CUBLAS_OP_T
constexpr int kPreferenceWorkspaceMax = 1;  // CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES

struct Heuristic {
  uint64_t algorithm[8];
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
  Status (*desc_destroy)(Handle);
  Status (*layout_create)(Handle*, int type, uint64_t rows, uint64_t cols, int64_t leading);
  Status (*layout_destroy)(Handle);
  Status (*preference_create)(Handle*);
  Status (*preference_set)(Handle, int attribute, const void*, size_t);
  Status (*preference_destroy)(Handle);
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
                   const uint64_t* algorithm,
                   void* workspace,
                   size_t workspace_bytes,
                   cudaStream_t);
};

// The library's words for one product. It counts by columns: row-major c is column-major
// c^T [n, m] = b a^T, with b^T stored [k, n].
struct CublasLt::Layouts {
  Layouts(const Functions& functions, const Product& product) : f(functions) {
    const auto size = [](int64_t value) { return static_cast<uint64_t>(value); };
    const int64_t stride = product.c_stride == 0 ? product.n : product.c_stride;
    valid = f.desc_create(&desc, kComputeFloat, kDataFloat) == 0 &&
            f.desc_set(desc, kDescTransA, &kTransposed, sizeof(kTransposed)) == 0 &&
            f.layout_create(&b, kDataBf16, size(product.k), size(product.n), product.k) == 0 &&
            f.layout_create(&a, kDataBf16, size(product.k), size(product.m), product.k) == 0 &&
            f.layout_create(&c, kDataBf16, size(product.n), size(product.m), stride) == 0;
  }

  Layouts(const Layouts&) = delete;
  Layouts& operator=(const Layouts&) = delete;

  ~Layouts() {
    if (desc != nullptr) f.desc_destroy(desc);
    for (Handle layout : {a, b, c}) {
      if (layout != nullptr) f.layout_destroy(layout);
    }
  }

  const Functions& f;
  Handle desc = nullptr;
  Handle a = nullptr;
  Handle b = nullptr;
  Handle c = nullptr;
  bool valid = false;
};

CublasLt::CublasLt() : functions_(std::make_unique<Functions>()) {}

CublasLt::~CublasLt() = default;

std::unique_ptr<CublasLt> CublasLt::Open(const std::string& path, std::string& why) {
  std::vector<std::string> names = {path};
  if (path.empty()) names = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
  void* library = nullptr;
  for (const std::string& name : names) {
    library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
  }
  if (library == nullptr) {
    why = path.empty() ? "no libcublasLt.so.13 or .12 can be opened" : path + " cannot be opened";
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
  load(f.desc_destroy, "cublasLtMatmulDescDestroy");
  load(f.layout_create, "cublasLtMatrixLayoutCreate");
  load(f.layout_destroy, "cublasLtMatrixLayoutDestroy");
  load(f.preference_create, "cublasLtMatmulPreferenceCreate");
  load(f.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  load(f.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  load(f.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  load(f.matmul, "cublasLtMatmul");
  if (!why.empty()) return nullptr;
  if (f.create(&lt->handle_) != 0) {
    why = "libcublasLt: cublasLtCreate failed";
    return nullptr;
  }
  return lt;
}

bool CublasLt::Enqueue(const Product& product, void* workspace, cudaStream_t stream) {
  const Layouts layouts(*functions_, product);
  const Algorithm* algorithm = layouts.valid ? AlgorithmFor(product, layouts) : nullptr;
  if (algorithm == nullptr) return false;
  ++num_products_;
  const float one = 1;
  const float zero = 0;
  return functions_->matmul(handle_, layouts.desc, &one, product.b, layouts.b, product.a, layouts.a,
                            &zero, product.c, layouts.c, product.c, layouts.c, algorithm->data(),
                            workspace, kWorkspaceBytes, stream) == 0;
}

const CublasLt::Algorithm* CublasLt::AlgorithmFor(const Product& product, const Layouts& layouts) {
  const std::array<int64_t, 4> shape = {product.m, product.n, product.k, product.c_stride};
  if (const auto known = algorithms_.find(shape); known != algorithms_.end()) {
    return &known->second;
  }
  const Functions& f = *functions_;
  const auto workspace_bytes = static_cast<size_t>(kWorkspaceBytes);
  Handle preference = nullptr;
  if (f.preference_create(&preference) != 0) return nullptr;
  Heuristic best{};
  int found = 0;
  const bool chosen = f.preference_set(preference, kPreferenceWorkspaceMax, &workspace_bytes,
                                       sizeof(workspace_bytes)) == 0 &&
                      f.heuristic(handle_, layouts.desc, layouts.b, layouts.a, layouts.c, layouts.c,
                                  preference, 1, &best, &found) == 0 &&
                      found > 0;
  f.preference_destroy(preference);
  if (!chosen) return nullptr;
  if (algorithms_.size() >= kAlgorithmsMax) algorithms_.clear();
  return &(algorithms_[shape] = std::to_array(best.algorithm));
}

}  // namespace facet::kernels
