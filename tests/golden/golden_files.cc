#include "tests/golden/golden_files.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/file.h"

namespace facet::test {
namespace {

constexpr char kRoot[] = "tests/golden/";

template <typename T>
std::vector<T> Values(const worker::SafetensorsFile& file,
                      const std::string& name,
                      const char* dtype) {
  const worker::StoredTensor* tensor = file.Find(name);
  FACET_CHECK(tensor != nullptr) << name;
  FACET_CHECK(tensor->dtype == dtype) << name << tensor->dtype;
  std::vector<T> values(tensor->num_elements());
  std::memcpy(values.data(), tensor->data, tensor->bytes);
  return values;
}

}  // namespace

std::vector<GoldenCase> LoadGoldenCases() {
  const StatusOr<std::string> text = ReadFile(std::string(kRoot) + "cases.json");
  FACET_CHECK(text.ok()) << text.status().ToString();
  std::vector<GoldenCase> cases;
  const nlohmann::json root = nlohmann::json::parse(*text);
  for (const auto& entry : root["cases"]) {
    GoldenCase one{
        .name = entry["name"],
        .model_directory = std::string(kRoot) + "models/" + entry["model"].get<std::string>(),
        .logits_file = std::string(kRoot) + "logits/" + entry["logits"].get<std::string>()};
    if (entry["long"].is_string()) {
      one.long_file = std::string(kRoot) + "logits/" + entry["long"].get<std::string>();
    }
    cases.push_back(std::move(one));
  }
  return cases;
}

GoldenFile::GoldenFile(const std::string& path) {
  StatusOr<std::unique_ptr<worker::SafetensorsFile>> file = worker::SafetensorsFile::Open(path);
  FACET_CHECK(file.ok()) << file.status().ToString();
  file_ = *std::move(file);
}

std::vector<int32_t> GoldenFile::Ints(const std::string& name) const {
  return Values<int32_t>(*file_, name, "I32");
}

std::vector<float> GoldenFile::Floats(const std::string& name) const {
  return Values<float>(*file_, name, "F32");
}

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, difference);
  }
  return largest;
}

double MeanDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::abs(static_cast<double>(a[i]) - b[i]);
  return sum / static_cast<double>(a.size());
}

}  // namespace facet::test
