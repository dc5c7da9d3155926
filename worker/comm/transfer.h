// One call of a communicator as its peers see it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/status.h"

namespace facet::worker {

enum class TransferVerb : uint8_t { kDispatch = 0, kCombine = 1, kAllGather = 2 };

struct Transfer {
  TransferVerb verb = TransferVerb::kDispatch;
  int64_t number = -1;  // From 0 in each group.
  const std::byte* send = nullptr;
  int64_t send_stride = 0;  // 0 where every rank gets the same block.
  std::byte* recv = nullptr;
  int64_t block_bytes = 0;

  const std::byte* SendBlock(int32_t to) const { return send + to * send_stride; }

  std::byte* RecvBlock(int32_t from) const { return recv + from * block_bytes; }

  // Whether another rank's call is the counterpart of this one.
  bool Fits(const Transfer& other) const {
    return verb == other.verb && number == other.number && block_bytes == other.block_bytes;
  }
};

// "Dispatch 12 with blocks of 4096 bytes".
inline std::string NameOf(const Transfer& transfer) {
  static constexpr const char* kNames[] = {"Dispatch", "Combine", "AllGather"};
  return StrCat(kNames[static_cast<int>(transfer.verb)], " ", transfer.number, " with blocks of ",
                transfer.block_bytes, " bytes");
}

}  // namespace facet::worker
