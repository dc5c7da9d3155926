// libnccl, found at run time: a program needs it only when it forms a group of GPUs.
#pragma once

#include <string>

#include "base/status.h"
#include "worker/comm/nccl_api.h"

namespace facet::worker {

class NcclLibrary {
 public:
  // Opens this file, or libnccl.so.2 in the loader's path where path is empty. It stays open for
  // the life of the process: NCCL's threads run in it.
  //
  // NOT_FOUND, with the loader's words; FAILED_PRECONDITION names the version found, or the
  // function that it lacks.
  static StatusOr<NcclLibrary> Open(const std::string& path);

  const nccl::Functions& functions() const { return functions_; }

  int version() const { return version_; }

  // "2.28.9"
  static std::string NameOfVersion(int version);

  // OK for kSuccess and kInProgress; else INTERNAL with the call and NCCL's words. comm may be
  // null.
  Status ToStatus(nccl::Result result, nccl::Comm comm, const char* call) const;

 private:
  nccl::Functions functions_ = {};
  int version_ = 0;
};

}  // namespace facet::worker
