// What the ranks of a group say to each other beside the data: who is there, who failed, who left.
//
// A message on the wire: its length (4 bytes) and then that many bytes, at most
// kControlMessageBytesMax; all integers little-endian:
//   type 1 | fault kind 1 | rank 4 | num_ranks 4 | epoch 8 | number of texts 2 | (length 4, bytes)…
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/comm/group_fault.h"

namespace facet::worker {

constexpr uint32_t kControlMessageBytesMax = 64 << 10;
constexpr int32_t kGroupRanksMax = 64;

enum class ControlType : uint8_t {
  kChallenge = 1,  // Hub → stranger: [hub nonce].
  kHello = 2,      // Stranger → hub, with rank, num_ranks, epoch: [nonce, proof, addresses].
  kRefused = 3,    // Hub → stranger, with the hub's epoch: ["key" or "", why]; then it closes.
  kStart = 4,  // Hub → rank, once all are there: [proof, addresses of rank 0, of rank 1, …].
  kHeartbeat = 5,  // Both ways.
  kFault = 6,  // Rank → hub: a suspicion, [reason]. Hub → rank: what ended the group; the last.
  kLeave = 7,  // Rank → hub: goodbye. Hub → ranks: this rank has left.
};

struct ControlMessage {
  ControlType type = ControlType::kHeartbeat;
  FaultKind kind = FaultKind::kAborted;  // Of a fault.
  int32_t rank = 0;                      // Whom the message is about.
  int32_t num_ranks = 0;
  int64_t epoch = 0;
  std::vector<std::string> texts;
};

// With the length in front.
std::string EncodeControl(const ControlMessage& message);

// What follows the length; nothing if it is not a message.
std::optional<ControlMessage> DecodeControl(std::string_view body);

enum class ProofBy { kHub, kRank };

// Shows knowledge of the group key, which itself never travels: HMAC-SHA256 over both sides'
// nonces, who speaks, and what a Hello says about rank, group and addresses.
std::string GroupProof(std::string_view key,
                       ProofBy by,
                       std::string_view hub_nonce,
                       const ControlMessage& hello);

// Takes equally long wherever the two differ.
bool SameProof(std::string_view a, std::string_view b);

std::string FreshNonce();

}  // namespace facet::worker
