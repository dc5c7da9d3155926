// Damaged input for the other parsers of what we did not write: OpenAI requests, safetensors files
// and config.json.
//
//   input_fuzz [SEED [ROUNDS]]
//
// Run in the source root, whose golden models it damages. The same promises as text_fuzz.
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/check.h"
#include "base/file.h"
#include "router/front/openai_json.h"
#include "tests/fuzz/rounds.h"
#include "worker/model/gemma4_config.h"
#include "worker/model/safetensors.h"

namespace facet {
namespace {

void FuzzOpenAiRequest(Random& random) {
  static constexpr char kJson[] =
      R"({"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":
      "system","content":"s"},{"role":"user","content":[{"type":"text","text":"a"}]},{"role":
      "assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f",
      "arguments":"{\"a\":[1,null]}"}}]},{"role":"tool","tool_call_id":"1","content":"x"}],
      "temperature":0.5,"top_p":0.9,"top_k":-1,"seed":7,"stop":["x","y"],"n":1,
      "max_completion_tokens":12,"presence_penalty":1,"frequency_penalty":null,"logprobs":true,
      "top_logprobs":2,"logit_bias":{"5":-1},"tools":[{"type":"function","function":{"name":"f",
      "parameters":{"type":"object","properties":{"a":{"type":"array"}}}}}],"tool_choice":"auto"})";
  const auto parsed = router::ParseChatCompletion(Damage(kJson, random));
  FACET_CHECK(IsOkOrInvalid(parsed)) << MessageOf(parsed.status());
  if (!parsed.ok()) router::ErrorBody(parsed.status());  // Quotes the input: it must be JSON still.
}

void FuzzConfig(Random& random) {
  static const std::string* const kConfigs[] = {
      new std::string(ReadFile("tests/golden/models/e2b/config.json").value()),
      new std::string(ReadFile("tests/golden/models/moe/config.json").value())};
  const std::string& good = *kConfigs[Below(random, std::size(kConfigs))];
  const auto config = worker::ParseGemma4Config(Damage(good, random));
  FACET_CHECK(IsOkOrInvalid(config)) << MessageOf(config.status());
  if (!config.ok()) return;
  FACET_CHECK_EQ(static_cast<int64_t>(config->layers.size()), config->num_layers);
  for (const worker::LayerShape& layer : config->layers) {
    FACET_CHECK(layer.kv_layer >= 0 && layer.kv_layer < config->num_layers);
    FACET_CHECK(layer.head_dim > 0 && layer.num_kv_heads > 0 && layer.intermediate > 0);
  }
}

// Eight bytes of length, header, data; damaged as a whole or in the header alone.
std::string DamagedSafetensors(Random& random) {
  std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
      "b.weight":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},
      "s":{"dtype":"BF16","shape":[],"data_offsets":[22,24]}})";
  const bool whole = Below(random, 4) == 0;
  if (!whole) header = Damage(header, random);
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(header.size() >> (8 * i)));
  bytes += header + std::string(24, '\1');
  return whole ? Damage(bytes, random) : bytes;
}

void FuzzSafetensors(const std::string& path, Random& random) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << DamagedSafetensors(random);
  const auto file = worker::SafetensorsFile::Open(path);
  FACET_CHECK(IsOkOrInvalid(file)) << MessageOf(file.status());
  if (!file.ok()) return;
  const auto file_bytes = static_cast<int64_t>(std::filesystem::file_size(path));
  for (const auto& [name, tensor] : (*file)->tensors()) {
    FACET_CHECK(tensor.bytes >= 0 && tensor.bytes < file_bytes) << name;
    FACET_CHECK(tensor.num_elements() <= tensor.bytes) << name;
    int sum = 0;  // Every byte can be read.
    for (int64_t i = 0; i < tensor.bytes; ++i) sum += static_cast<int>(tensor.data[i]);
    FACET_CHECK(sum >= 0);
  }
}

int Main(int argc, char** argv) {
  const std::string path = std::filesystem::temp_directory_path() /
                           ("input_fuzz_" + std::to_string(getpid()) + ".safetensors");
  const int status = RunRounds("input_fuzz", argc, argv, [&](Random& random) {
    FuzzOpenAiRequest(random);
    FuzzConfig(random);
    FuzzSafetensors(path, random);
  });
  std::filesystem::remove(path);
  return status;
}

}  // namespace
}  // namespace facet

int main(int argc, char** argv) { return facet::Main(argc, argv); }
