#include <cstdio>
#include <string>

#include "tests/conformance/fast_library.h"

namespace facet::kernels {

std::shared_ptr<CublasLt> FastLibrary() {
  std::string why;
  std::shared_ptr<CublasLt> opened = CublasLt::Open("", why);
  if (opened == nullptr) std::printf("the fast kernel table is not tested: %s\n", why.c_str());
  return opened;
}

}  // namespace facet::kernels
