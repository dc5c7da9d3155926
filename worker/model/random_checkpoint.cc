#include "worker/model/random_checkpoint.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "kernels/dtype.h"
#include "worker/model/weights.h"

namespace facet::worker {
namespace {

using kernels::Bf16;

// Anonymous pages: zero, and not there before they are touched.
class Mapping {
 public:
  explicit Mapping(int64_t bytes)
      : bytes_(bytes),
        data_(mmap(nullptr,
                   bytes,
                   PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1,
                   0)) {}

  ~Mapping() {
    if (ok()) munmap(data_, bytes_);
  }

  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  bool ok() const { return data_ != MAP_FAILED; }

  Bf16* values() const { return static_cast<Bf16*>(data_); }

 private:
  int64_t bytes_;
  void* data_;
};

struct Memory {
  Memory(int64_t random_bytes, int64_t zero_bytes, int64_t constants_bytes)
      : random(random_bytes), zeros(zero_bytes), constants(constants_bytes) {}

  Mapping random;
  Mapping zeros;
  Mapping constants;
};

uint64_t SplitMix(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// Uniform in ±0.03, four values from each draw.
void FillRandom(Bf16* values, int64_t size, uint64_t seed) {
  uint64_t state = seed;
  for (int64_t i = 0; i < size; i += 4) {
    const uint64_t bits = SplitMix(state);
    for (int64_t j = 0; j < 4 && i + j < size; ++j) {
      const auto word = static_cast<int16_t>(bits >> (16 * j));
      values[i + j] = kernels::ToBf16(static_cast<float>(word) * (0.03F / 32768));
    }
  }
}

int64_t NumElements(const ExpectedTensor& tensor) {
  int64_t count = 1;
  for (const int64_t dim : tensor.shape) count *= dim;
  return count;
}

bool IsPleTable(const ExpectedTensor& tensor) {
  return tensor.name.ends_with("embed_tokens_per_layer.weight");
}

}  // namespace

StatusOr<Checkpoint> MakeRandomCheckpoint(const Gemma4Config& config, uint64_t seed) {
  constexpr int64_t kConstants = 1 << 16;  // Longer than any vector.
  constexpr int64_t kStep = 4096 * 3;      // Between the beginnings of two tensors' windows.
  const std::vector<ExpectedTensor> expected = ExpectedTensors(config);
  int64_t largest = 0;
  int64_t ple_table = 1;
  for (const ExpectedTensor& tensor : expected) {
    int64_t& size = IsPleTable(tensor) ? ple_table : largest;
    size = std::max(size, NumElements(tensor));
  }
  const int64_t random_size = largest + kStep * static_cast<int64_t>(expected.size());
  auto memory = std::make_shared<Memory>(2 * random_size, 2 * ple_table, 4 * kConstants);
  if (!memory->random.ok() || !memory->zeros.ok() || !memory->constants.ok()) {
    return Unavailable("cannot map ", 2 * (random_size + ple_table), " bytes for random weights");
  }
  FillRandom(memory->random.values(), random_size, seed);
  std::fill_n(memory->constants.values(), kConstants, kernels::ToBf16(1));
  memory->constants.values()[kConstants] = kernels::ToBf16(0.5F);

  std::map<std::string, StoredTensor, std::less<>> tensors;
  int64_t next = 0;
  for (const ExpectedTensor& tensor : expected) {
    const Bf16* values = memory->random.values() + next;
    if (IsPleTable(tensor)) {
      values = memory->zeros.values();
    } else if (tensor.name.ends_with("layer_scalar")) {
      values = memory->constants.values() + kConstants;
    } else if (tensor.shape.size() == 1) {
      values = memory->constants.values();
    } else {
      next += kStep;
    }
    tensors[tensor.name] = {.dtype = "BF16",
                            .shape = tensor.shape,
                            .data = reinterpret_cast<const std::byte*>(values),
                            .bytes = 2 * NumElements(tensor)};
  }
  return Checkpoint::FromMemory(std::move(tensors), std::move(memory));
}

}  // namespace facet::worker
