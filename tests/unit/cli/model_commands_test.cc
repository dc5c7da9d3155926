#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "cli/model_inspect.h"
#include "cli/model_logits.h"
#include "kernels/cpu/cpu_backend.h"
#include "worker/engine/prompt_logits.h"
#include "worker/executor/model_executor.h"

namespace facet {
namespace {

using testing::HasSubstr;

constexpr char kModel[] = "tests/golden/models/e2b";

TEST(ModelLogitsTest, FileHoldsWhatRunPromptLogitsComputes) {
  const std::vector<int32_t> ids = {2, 7, 9, 400, 33, 21, 5};
  auto executor = worker::ModelExecutor::Create(
      {.model_directory = kModel,
       .dtype = kernels::DType::kF32,
       .kv_bytes = 64 << 20,
       .running_max = 1,
       .step_tokens_max = 64},
      std::make_unique<kernels::CpuBackend>(kernels::CpuTier::kScalar, 1));
  ASSERT_TRUE(executor.ok()) << executor.status();
  std::vector<float> want;
  ASSERT_TRUE(worker::RunPromptLogits(**executor, ids, 64, [&](int64_t, auto logits) {
                want.insert(want.end(), logits.begin(), logits.end());
              }).ok());

  const std::string file =
      (std::filesystem::path(testing::TempDir()) / "facet_model_logits_test").string();
  const Status status = WriteLogits({.model_directory = kModel,
                                     .ids = ids,
                                     .dtype = "f32",
                                     .chunk_tokens = 3,
                                     .threads = 2,
                                     .cpu_tier = "scalar",
                                     .out_file = file});
  ASSERT_TRUE(status.ok()) << status;
  const std::string bytes = *ReadFile(file);
  ASSERT_EQ(bytes.size(), want.size() * sizeof(float));
  EXPECT_EQ(std::memcmp(bytes.data(), want.data(), bytes.size()), 0);
  std::filesystem::remove(file);
}

TEST(ModelLogitsTest, ErrorsNameTheFlag) {
  const auto message = [](LogitsOptions options) {
    options.model_directory = kModel;
    options.out_file = "/no/such/file";
    return MessageOf(WriteLogits(options));
  };
  EXPECT_EQ(message({.ids = {2}, .dtype = "f16"}), "--dtype is f16; bf16 and f32 exist");
  EXPECT_THAT(message({.ids = {2}, .chunk_tokens = 0}), HasSubstr("--chunk is 0; it must be from"));
  EXPECT_THAT(message({.ids = {2}, .cpu_tier = "sse"}), HasSubstr("cpu_tier is sse"));
  EXPECT_THAT(message({.ids = {2}}), HasSubstr("--out is /no/such/file"));
}

TEST(ModelLogitsTest, NamesTheIdThatIsNone) {
  for (const char* word : {"x", "-1", "2147483648", "", "7 "}) {
    EXPECT_EQ(MessageOf(ParseIdList({"2", word}).status()),
              StrCat("--ids holds \"", word, "\"; ids are whole numbers from 0 to 2147483647"));
  }
  EXPECT_EQ(ParseIdList({"2", "7"}).value(), (std::vector<int32_t>{2, 7}));
}

TEST(ModelInspectTest, DemoModelIsServable) {
  const auto report = InspectModel("deploy/demo/models/facet-demo-26b");
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->servable);
  EXPECT_LT(report->parameters_active, report->parameters);
  const auto json = nlohmann::json::parse(ReportJson(*report));
  EXPECT_EQ(json["shape"], "26B-A4B-like");
  EXPECT_EQ(json["config"]["num_experts"], 16);
  EXPECT_GT(json["kv_bytes_by_tokens"]["8192"], json["kv_bytes_by_tokens"]["1024"]);
  EXPECT_THAT(ReportText(*report, Paint(false)), HasSubstr("16 experts of 64, 4 chosen"));
}

TEST(ModelInspectTest, MissingTokenizerIsAWarning) {
  const auto report = InspectModel(kModel);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->servable);
  EXPECT_THAT(report->warnings, testing::Contains(HasSubstr("tokenizer.json is missing")));
}

TEST(ModelInspectTest, ADirectoryWithoutConfigIsAnError) {
  EXPECT_THAT(std::string(InspectModel("/no/such/model").status().message()),
              HasSubstr("/no/such/model/config.json"));
}

}  // namespace
}  // namespace facet
