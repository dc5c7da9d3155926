#include <dlfcn.h>

#include <string>
#include <utility>

#include "base/check.h"
#include "runtime.h"
#include "tests/conformance/fast_library.h"
#include "tests/support/fake_cublas_lt/fake_cublas_lt.h"

namespace facet::kernels {

std::shared_ptr<CublasLt> FastLibrary() {
  void* library = dlopen(FAKE_CUBLAS_LT, RTLD_NOW | RTLD_LOCAL);
  FACET_CHECK(library != nullptr) << dlerror();
  auto* enqueue_by =
      reinterpret_cast<void (*)(EnqueueWork)>(dlsym(library, "FakeCublasLtEnqueueBy"));
  enqueue_by([](cudaStream_t stream, std::function<void()> work) {
    cuda_emulator::Enqueue(stream, std::move(work));
  });
  std::string why;
  std::shared_ptr<CublasLt> opened = CublasLt::Open(FAKE_CUBLAS_LT, why);
  FACET_CHECK(opened != nullptr) << why;
  return opened;
}

}  // namespace facet::kernels
