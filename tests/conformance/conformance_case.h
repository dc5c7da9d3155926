// What a conformance case is written with: tensors on the host, the reference and a peer side by
// side, random shapes and weights, and the tolerance that both are held to.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <memory>
#include <ostream>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/reference/reference_backend.h"
#include "tests/conformance/peers.h"

namespace facet::kernels {

struct Setting {
  Peer peer;
  DType dtype;
  uint32_t seed;
};

inline void PrintTo(const Setting& setting, std::ostream* out) { *out << setting.peer.name; }

// A host tensor that owns its memory.
class Tensor {
 public:
  Tensor(DType dtype, std::vector<int64_t> shape) : dtype_(dtype), shape_(std::move(shape)) {
    int64_t size = 1;
    for (const int64_t dim : shape_) size *= dim;
    bytes_.resize(static_cast<size_t>(size * SizeOf(dtype)));
  }

  TensorView view() { return ViewOf<TensorView>(bytes_.data()); }

  ConstTensorView view() const { return ViewOf<ConstTensorView>(bytes_.data()); }

  int64_t num_bytes() const { return static_cast<int64_t>(bytes_.size()); }

  int64_t size() const { return static_cast<int64_t>(bytes_.size()) / SizeOf(dtype_); }

  float at(int64_t i) const {
    return dtype_ == DType::kBf16 ? ToFloat(view().as<Bf16>()[i]) : view().as<float>()[i];
  }

  void set(int64_t i, float value) {
    if (dtype_ == DType::kBf16) {
      view().as<Bf16>()[i] = ToBf16(value);
    } else {
      view().as<float>()[i] = value;
    }
  }

  std::vector<int32_t> ints() const {
    return {view().as<int32_t>(), view().as<int32_t>() + size()};
  }

  bool operator==(const Tensor& other) const { return bytes_ == other.bytes_; }

  // A view of this shape over data.
  template <typename View, typename Data>
  View ViewOf(Data* data) const {
    switch (shape_.size()) {
      case 1:
        return View(data, dtype_, {shape_[0]});
      case 2:
        return View(data, dtype_, {shape_[0], shape_[1]});
      default:
        return View(data, dtype_, {shape_[0], shape_[1], shape_[2]});
    }
  }

 private:
  DType dtype_;
  std::vector<int64_t> shape_;
  std::vector<std::byte> bytes_;
};

// A backend and what a test's tensors are to it: the host's memory, or copies on a device.
class Side {
 public:
  Side(std::unique_ptr<Backend> backend, bool reads_host_memory)
      : backend_(std::move(backend)), reads_host_memory_(reads_host_memory) {}

  Backend* operator->() { return backend_.get(); }

  // What an op reads.
  ConstTensorView View(const Tensor& tensor) {
    return reads_host_memory_ ? tensor.view() : tensor.ViewOf<ConstTensorView>(Copy(tensor));
  }

  // A table in the place where the backend keeps such.
  ConstTensorView Table(const Tensor& tensor) {
    tables_.push_back(backend_->KeepTable(tensor.view()));
    return tables_.back().view;
  }

  // What it writes; Fetch brings it back.
  TensorView View(Tensor& tensor) {
    if (reads_host_memory_) return tensor.view();
    void* copy = Copy(tensor);
    outputs_.push_back({&tensor, copy});
    return tensor.ViewOf<TensorView>(copy);
  }

  // One step that samples.
  std::vector<SampledToken> Sample(const Tensor& logits,
                                   std::span<const SampleRow> rows,
                                   Tensor& last_tokens) {
    backend_->BeginStep();
    backend_->Sample({.logits = View(logits), .rows = rows, .last_tokens = View(last_tokens)});
    StepOutcome outcome = backend_->EndStep()->Wait();
    Fetch();
    return std::move(outcome.tokens);
  }

  // The test's report then has a digest of all that was fetched, for cuda_modes_test.py.
  void Fetch() {
    for (const auto& [tensor, copy] : outputs_) {
      backend_->CopyToHost(tensor->view().raw(), copy, tensor->num_bytes());
      AddToDigest(*tensor);
    }
    testing::Test::RecordProperty("digest", std::to_string(digest_));
    outputs_.clear();
    copies_.clear();
    tables_.clear();
  }

 private:
  // FNV-1a.
  void AddToDigest(const Tensor& tensor) {
    const auto* bytes = static_cast<const unsigned char*>(tensor.view().raw());
    for (int64_t i = 0; i < tensor.num_bytes(); ++i)
      digest_ = (digest_ ^ bytes[i]) * 1099511628211U;
  }

  void* Copy(const Tensor& tensor) {
    copies_.push_back(backend_->Upload(
        ConstTensorView(tensor.view().raw(), tensor.view().dtype(), {tensor.size()}),
        tensor.view().dtype()));
    return copies_.back().data();
  }

  std::unique_ptr<Backend> backend_;
  const bool reads_host_memory_;
  uint64_t digest_ = 14695981039346656037U;
  std::deque<Buffer> copies_;
  std::deque<HostTable> tables_;
  std::vector<std::pair<Tensor*, void*>> outputs_;
};

class ConformanceTest : public testing::TestWithParam<Setting> {
 protected:
  ConformanceTest()
      : random_(GetParam().seed),
        dtype_(GetParam().dtype),
        reference_(std::make_unique<ReferenceBackend>(), true),
        peer_(GetParam().peer.make(), GetParam().peer.reads_host_memory) {}

  int64_t Between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random_() % static_cast<uint64_t>(most - least + 1));
  }

  // A width that the peer takes.
  int64_t Width(int64_t least, int64_t most) {
    const int64_t unit = GetParam().peer.width_unit;
    return Between((least + unit - 1) / unit, most / unit) * unit;
  }

  Tensor Random(std::vector<int64_t> shape, float deviation = 1) {
    Tensor tensor(dtype_, std::move(shape));
    std::normal_distribution<float> normal(0, deviation);
    for (int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, normal(random_));
    return tensor;
  }

  // Around one, as norms' weights are.
  Tensor RandomNorm(int64_t size) {
    Tensor tensor(dtype_, {size});
    std::normal_distribution<float> normal(1, 0.2F);
    for (int64_t i = 0; i < size; ++i) tensor.set(i, normal(random_));
    return tensor;
  }

  struct Packed {
    PackedWeight reference;
    PackedWeight peer;
  };

  const PackedWeight& On(const Side& side, const Packed& packed) const {
    return &side == &peer_ ? packed.peer : packed.reference;
  }

  Packed RandomWeight(int64_t rows, int64_t cols) {
    const Tensor weight = Random({rows, cols}, 1 / std::sqrt(static_cast<float>(cols)));
    return {reference_->Pack(weight.view(), FormatOf(dtype_)),
            peer_->Pack(weight.view(), FormatOf(dtype_))};
  }

  struct PackedExperts {
    std::vector<ExpertWeights> reference;
    std::vector<ExpertWeights> peer;
  };

  PackedExperts RandomExperts(int64_t num_experts, int64_t width, int64_t hidden) {
    PackedExperts experts;
    for (int64_t e = 0; e < num_experts; ++e) {
      Packed gate = RandomWeight(width, hidden);
      Packed up = RandomWeight(width, hidden);
      Packed down = RandomWeight(hidden, width);
      experts.reference.push_back(
          {std::move(gate.reference), std::move(up.reference), std::move(down.reference)});
      experts.peer.push_back({std::move(gate.peer), std::move(up.peer), std::move(down.peer)});
    }
    return experts;
  }

  void ExpectClose(const Tensor& got, const Tensor& want, const char* what) {
    double scale = 1e-3;
    for (int64_t i = 0; i < want.size(); ++i) {
      scale = std::max(scale, std::abs(static_cast<double>(want.at(i))));
    }
    const double bound = scale * (dtype_ == DType::kBf16 ? 2.5 / 256 : 2e-5);
    for (int64_t i = 0; i < want.size(); ++i) {
      ASSERT_LE(std::abs(static_cast<double>(got.at(i)) - want.at(i)), bound)
          << what << "[" << i << "] is " << got.at(i) << ", reference " << want.at(i);
    }
  }

  std::mt19937 random_;
  const DType dtype_;
  Side reference_;
  Side peer_;
};

// Every peer, dtype and seed.
inline std::vector<Setting> AllSettings() {
  std::vector<Setting> settings;
  for (const Peer& peer : Peers()) {
    for (const DType dtype : peer.dtypes) {
      for (uint32_t seed = 1; seed <= peer.num_seeds; ++seed) {
        settings.push_back({peer, dtype, seed});
      }
    }
  }
  return settings;
}

inline std::string NameOfSetting(const testing::TestParamInfo<Setting>& setting) {
  return setting.param.peer.name + "_" + NameOf(setting.param.dtype) + "_" +
         std::to_string(setting.param.seed);
}

}  // namespace facet::kernels
