#include "worker/comm/control_message.h"

#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <array>
#include <bit>
#include <cstring>
#include <type_traits>

#include "base/check.h"

namespace facet::worker {
namespace {

constexpr size_t kNumbersMax = kWishNumbers * kGroupRanksMax;
constexpr size_t kTextsMax = kGroupRanksMax + 1;

static_assert(std::endian::native == std::endian::little);

template <typename T>
void Put(std::string& out, T value) {
  static_assert(std::is_integral_v<T>);
  std::array<char, sizeof value> bytes{};
  std::memcpy(bytes.data(), &value, sizeof value);
  out.append(bytes.data(), bytes.size());
}

void PutText(std::string& out, std::string_view text) {
  Put(out, static_cast<uint32_t>(text.size()));
  out.append(text);
}

// False if the bytes do not suffice.
template <typename T>
bool Take(std::string_view& in, T& value) {
  if (in.size() < sizeof value) return false;
  std::memcpy(&value, in.data(), sizeof value);
  in.remove_prefix(sizeof value);
  return true;
}

}  // namespace

void AppendWish(const StepWish& wish, std::vector<int64_t>& numbers) {
  numbers.push_back(wish.num_tokens);
  numbers.push_back(wish.weight);
  numbers.push_back(wish.leaving ? 1 : 0);
}

std::optional<StepWish> WishAt(const std::vector<int64_t>& numbers, size_t first) {
  if (first + kWishNumbers > numbers.size()) return std::nullopt;
  const int64_t num_tokens = numbers[first];
  const int64_t weight = numbers[first + 1];
  if (num_tokens < 0 || num_tokens > std::numeric_limits<int32_t>::max() || weight < 0 ||
      weight > kStepWeightMax) {
    return std::nullopt;
  }
  return StepWish{.num_tokens = static_cast<int32_t>(num_tokens),
                  .weight = weight,
                  .leaving = numbers[first + 2] != 0};
}

std::string EncodeControl(const ControlMessage& message) {
  std::string body;
  Put(body, static_cast<uint8_t>(message.type));
  Put(body, static_cast<uint8_t>(message.kind));
  Put(body, message.rank);
  Put(body, message.num_ranks);
  Put(body, message.epoch);
  Put(body, message.step);
  Put(body, static_cast<uint16_t>(message.numbers.size()));
  for (const int64_t number : message.numbers) Put(body, number);
  Put(body, static_cast<uint16_t>(message.texts.size()));
  for (const std::string& text : message.texts) PutText(body, text);
  FACET_CHECK(message.numbers.size() <= kNumbersMax && message.texts.size() <= kTextsMax);
  FACET_CHECK_LE(body.size(), kControlMessageBytesMax);
  std::string out;
  Put(out, static_cast<uint32_t>(body.size()));
  return out + body;
}

std::optional<ControlMessage> DecodeControl(std::string_view body) {
  uint8_t type = 0;
  uint8_t kind = 0;
  uint16_t num_numbers = 0;
  uint16_t num_texts = 0;
  ControlMessage message;
  if (!Take(body, type) || !Take(body, kind) || !Take(body, message.rank) ||
      !Take(body, message.num_ranks) || !Take(body, message.epoch) || !Take(body, message.step) ||
      !Take(body, num_numbers) || num_numbers > kNumbersMax) {
    return std::nullopt;
  }
  if (type < static_cast<uint8_t>(ControlType::kChallenge) ||
      type > static_cast<uint8_t>(ControlType::kAssign) ||
      kind > static_cast<uint8_t>(FaultKind::kLost)) {
    return std::nullopt;
  }
  message.type = static_cast<ControlType>(type);
  message.kind = static_cast<FaultKind>(kind);
  message.numbers.resize(num_numbers);
  for (int64_t& number : message.numbers) {
    if (!Take(body, number)) return std::nullopt;
  }
  if (!Take(body, num_texts) || num_texts > kTextsMax) return std::nullopt;
  for (uint16_t i = 0; i < num_texts; ++i) {
    uint32_t length = 0;
    if (!Take(body, length) || body.size() < length) return std::nullopt;
    message.texts.emplace_back(body.substr(0, length));
    body.remove_prefix(length);
  }
  if (!body.empty()) return std::nullopt;
  return message;
}

std::string GroupProof(std::string_view key,
                       ProofBy by,
                       std::string_view hub_nonce,
                       const ControlMessage& hello) {
  std::string text = "facet expert parallel group 2";
  Put(text, static_cast<uint8_t>(by));
  Put(text, hello.rank);
  Put(text, hello.num_ranks);
  Put(text, hello.epoch);
  PutText(text, hub_nonce);
  PutText(text, hello.texts.at(0));  // Nonce.
  PutText(text, hello.texts.at(2));  // Addresses.
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int length = 0;
  const unsigned char* done = HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
                                   reinterpret_cast<const unsigned char*>(text.data()), text.size(),
                                   digest.data(), &length);
  FACET_CHECK(done != nullptr);
  return {reinterpret_cast<const char*>(digest.data()), length};
}

bool SameProof(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string FreshNonce() {
  std::array<unsigned char, 32> bytes{};
  FACET_CHECK_EQ(RAND_bytes(bytes.data(), bytes.size()), 1);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace facet::worker
