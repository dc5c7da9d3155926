// Reads the cases that generate.py wrote.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "worker/model/safetensors.h"

namespace facet::test {

struct GoldenCase {
  std::string name;
  std::string model_directory;
  std::string logits_file;
  std::string long_file;  // Empty if the case has none.
};

std::vector<GoldenCase> LoadGoldenCases();

// One file of tests/golden/logits.
class GoldenFile {
 public:
  explicit GoldenFile(const std::string& path);

  bool Has(const std::string& name) const { return file_->Find(name) != nullptr; }

  std::vector<int32_t> Ints(const std::string& name) const;
  std::vector<float> Floats(const std::string& name) const;

 private:
  std::unique_ptr<worker::SafetensorsFile> file_;
};

// The largest |a - b|; infinite if sizes differ or a value is not finite.
double LargestDifference(const std::vector<float>& a, const std::vector<float>& b);
double MeanDifference(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace facet::test
