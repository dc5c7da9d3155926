#include "cli/batch_timeline.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/status.h"
#include "worker/model/gemma4_work.h"
#include "worker/model/model_shape.h"

namespace facet {
namespace {

constexpr int kPrompt = 600;

struct Token {
  int request = 0;
  int place = 0;  // Among the request's.
  bool last = false;
};

worker::StepFrame Frame(const std::vector<Token>& tokens) {
  worker::StepFrame frame;
  for (const Token& token : tokens) {
    frame.deltas.push_back(
        {.request_id = StrCat(token.request),
         .first_position = token.place,
         .token_ids = {7},
         .finish = token.last ? worker::FinishReason::kLength : worker::FinishReason::kNone});
  }
  return frame;
}

worker::ModelWork E4b() {
  const std::string config = ConfigJson(worker::PublishedShape("e4b").value());
  return WorkOf(worker::ParseGemma4Config(config).value(), kernels::DType::kBf16);
}

// Three requests of four tokens, of which the last waits two steps for its turn.
TEST(BatchTimelineTest, DecodeIsWhereEveryRequestHasATokenInEachStep) {
  BatchTimeline timeline(3, kPrompt, E4b());
  timeline.Add(Frame({{0, 0}, {1, 0}}), 1000);
  timeline.Add(Frame({{0, 1}, {1, 1}}), 1100);  // Four tokens by now, but not of three requests.
  EXPECT_EQ(timeline.all_started_ns(), 0);
  timeline.Add(Frame({{0, 2}, {1, 2}, {2, 0}}), 1300);
  EXPECT_EQ(timeline.all_started_ns(), 1300);
  EXPECT_EQ(timeline.decode().num_steps, 0);
  timeline.Add(Frame({{0, 3, true}, {1, 3, true}, {2, 1}}), 1340);
  timeline.Add(Frame({{2, 2}}), 1350);
  timeline.Add(Frame({{2, 3, true}}), 1360);
  EXPECT_EQ(timeline.first_ns(), 1000);
  EXPECT_EQ(timeline.last_ns(), 1360);
  EXPECT_EQ(timeline.num_tokens(), 12);
  EXPECT_EQ(timeline.decode().ns, 40);
  EXPECT_EQ(timeline.decode().num_steps, 1);
  EXPECT_EQ(timeline.decode().num_tokens, 3);
}

TEST(BatchTimelineTest, RequestsThatNeverRunTogetherHaveNoDecode) {
  BatchTimeline timeline(2, kPrompt, E4b());
  timeline.Add(Frame({{0, 0}}), 1000);
  timeline.Add(Frame({{0, 1, true}, {1, 0}}), 1100);
  timeline.Add(Frame({{1, 1, true}}), 1200);
  EXPECT_EQ(timeline.all_started_ns(), 1100);
  EXPECT_EQ(timeline.decode().num_steps, 0);
}

// All 42 layers of E4B read keys and values, though 18 of them read another layer's; 35 of them see
// 512 positions at most.
TEST(BatchTimelineTest, AStepReadsTheWeightsOnceAndWhatEachLayerSees) {
  const worker::ModelWork work = E4b();
  BatchTimeline timeline(2, kPrompt, work);
  timeline.Add(Frame({{0, 0}, {1, 0}}), 1000);
  timeline.Add(Frame({{0, 1}, {1, 1}}), 1100);
  timeline.Add(Frame({{0, 2}, {1, 2}}), 1200);
  constexpr double kSlidingPosition =
      35 * 2.0 * 2 * 256 * 2;  // Layers, K and V, heads, dim, bytes.
  constexpr double kFullPosition = 7 * 2.0 * 2 * 512 * 2;
  const double first = kSlidingPosition * 512 + kFullPosition * (kPrompt + 1);
  const double second = kSlidingPosition * 512 + kFullPosition * (kPrompt + 2);
  EXPECT_DOUBLE_EQ(timeline.decode().bytes, 2 * work.WeightBytes(2) + 2 * (first + second));
}

}  // namespace
}  // namespace facet
