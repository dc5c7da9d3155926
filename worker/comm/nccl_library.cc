#include "worker/comm/nccl_library.h"

#include <dlfcn.h>

#include <type_traits>

namespace facet::worker {

StatusOr<NcclLibrary> NcclLibrary::Open(const std::string& path) {
  const std::string name = path.empty() ? "libnccl.so.2" : path;
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    return NotFound("NCCL cannot be opened: ", why == nullptr ? name : why);
  }
  NcclLibrary opened;
  std::string lacking;
  nccl::ForEachFunction(opened.functions_, [&](auto& function, const char* symbol, bool required) {
    function =
        reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, symbol));
    if (function == nullptr && required && lacking.empty()) lacking = symbol;
  });
  // The version first: it explains a function that is not there.
  if (opened.functions_.get_version != nullptr) {
    if (opened.functions_.get_version(&opened.version_) != nccl::kSuccess) {
      return FailedPrecondition(name, " does not tell its version");
    }
    if (opened.version_ < nccl::kVersionMin) {
      return FailedPrecondition(name, " is NCCL ", NameOfVersion(opened.version_), "; at least ",
                                NameOfVersion(nccl::kVersionMin), " is needed");
    }
  }
  if (!lacking.empty()) return FailedPrecondition(name, " lacks ", lacking);
  return opened;
}

std::string NcclLibrary::NameOfVersion(int version) {
  // Up to 2.8 the code was 1000 major + 100 minor + patch.
  const int major_unit = version < 10'000 ? 1000 : 10'000;
  return StrCat(version / major_unit, ".", version % major_unit / 100, ".", version % 100);
}

Status NcclLibrary::ToStatus(nccl::Result result, nccl::Comm comm, const char* call) const {
  if (result == nccl::kSuccess || result == nccl::kInProgress) return absl::OkStatus();
  const char* detail = comm == nullptr ? nullptr : functions_.get_last_error(comm);
  const bool has_detail = detail != nullptr && *detail != '\0';
  return Internal(call, ": ", functions_.get_error_string(result), has_detail ? " (" : "",
                  has_detail ? detail : "", has_detail ? ")" : "");
}

}  // namespace facet::worker
