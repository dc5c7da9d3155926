// Damaged files are refused with the tensor or the byte at fault.
#include "worker/model/safetensors.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "base/file.h"

namespace facet::worker {
namespace {

class SafetensorsTest : public testing::Test {
 protected:
  SafetensorsTest() : path_(testing::TempDir() + "safetensors_test.safetensors") {}

  ~SafetensorsTest() override { std::filesystem::remove(path_); }

  Status OpenBytes(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary) << bytes;
    return SafetensorsFile::Open(path_).status();
  }

  Status OpenHeader(const std::string& header, int data_bytes) {
    std::string bytes(8, '\0');
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i));
    return OpenBytes(bytes + header + std::string(data_bytes, '\1'));
  }

  const std::string path_;
};

struct HeaderCase {
  const char* name;
  const char* header;
  const char* error;
};

const HeaderCase kHeaders[] = {
    {"good", R"({"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}})", ""},
    {"scalar", R"({"a": {"dtype": "BF16", "shape": [], "data_offsets": [0, 2]}})", ""},
    {"not_json", R"({"a")", "the header is not a JSON object"},
    {"array", R"([])", "the header is not a JSON object"},
    {"no_shape", R"({"a": {"dtype": "F32", "data_offsets": [0, 16]}})",
     "tensor a: its header entry"},
    {"unknown_dtype", R"({"a": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 4]}})",
     "tensor a: dtype Q4 is unknown"},
    {"truncated", R"({"a": {"dtype": "F32", "shape": [8, 2], "data_offsets": [0, 64]}})",
     "its data ends at byte 64 of 16 (is the file truncated?)"},
    {"size_mismatch", R"({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 16]}})",
     "it has 16 bytes; shape [3] of F32 needs 12"},
    {"negative_dim", R"({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 16]}})",
     "a dimension is not a whole number"},
    {"huge_dim",
     R"({"a": {"dtype": "F32", "shape": [4611686018427387904, 4611686018427387904], "data_offsets": [0, 16]}})",
     "its shape needs more bytes than the file has"},
    {"backward", R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}})",
     "its data ends"},
};

TEST_F(SafetensorsTest, ChecksTheHeaderWhole) {
  for (const HeaderCase& one : kHeaders) {
    const Status status = OpenHeader(one.header, 16);
    if (*one.error == '\0') {
      EXPECT_TRUE(status.ok()) << one.name << status;
    } else {
      EXPECT_NE(MessageOf(status).find(one.error), std::string::npos) << one.name << ": " << status;
    }
  }
}

TEST_F(SafetensorsTest, RefusesFilesThatAreTooShort) {
  EXPECT_NE(MessageOf(OpenBytes("abc")).find("has 3 bytes"), std::string::npos);
  EXPECT_NE(MessageOf(OpenBytes(std::string(8, '\xff'))).find("header length is"),
            std::string::npos);
}

TEST_F(SafetensorsTest, SurvivesRandomDamage) {
  const std::string good = *ReadFile("tests/golden/models/flat/model.safetensors");
  for (uint32_t seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    std::string bytes = good.substr(0, 20'000);
    for (int i = 0; i < 5; ++i) bytes[random() % 4000] = static_cast<char>(random());
    EXPECT_FALSE(OpenBytes(bytes).ok() && bytes.size() == good.size()) << seed;
  }
}

TEST(CheckpointTest, NamesWhatIsMissing) {
  EXPECT_EQ(Checkpoint::Open("/nonexistent").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace facet::worker
