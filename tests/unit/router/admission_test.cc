#include "router/admission/admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "proto/grpc_status.h"
#include "tests/support/router_models.h"

namespace facet::router {
namespace {

using ::testing::HasSubstr;

std::vector<ServedModel> OneModel() {
  std::vector<ServedModel> models;
  models.push_back(testing::SmallModel());
  return models;
}

ClientRequest GoodRequest() {
  ClientRequest request;
  request.model = "m";
  request.prompt = TextPrompt{"hello"};
  request.arrival_ns = 1000;
  return request;
}

StatusOr<Ticket> TryAdmit(const ClientRequest& request, const std::vector<ServedModel>& models) {
  return Admit(request,
               {.models = models, .now_ns = 2000, .deadline_ms_default = 10, .fresh_seed = 99});
}

TEST(AdmissionTest, FillsTheModelsDefaultsAndASeed) {
  const auto models = OneModel();
  const auto ticket = TryAdmit(GoodRequest(), models);
  ASSERT_TRUE(ticket.ok()) << MessageOf(ticket.status());
  EXPECT_EQ(ticket->sampling.temperature(), 1);
  EXPECT_EQ(ticket->sampling.top_k(), 64);
  EXPECT_EQ(ticket->sampling.repetition_penalty(), 1);
  EXPECT_EQ(ticket->sampling.seed(), 99u);
  EXPECT_EQ(ticket->stop_token_ids, models[0].stop_token_ids);
  EXPECT_EQ(ticket->deadline_ns, 1000 + 10'000'000);
}

TEST(AdmissionTest, IgnoreEosLeavesTheClientsStopTokensAlone) {
  const auto models = OneModel();
  ClientRequest request = GoodRequest();
  request.limits.set_ignore_eos(true);
  request.limits.add_stop_token_ids(7);
  EXPECT_EQ(TryAdmit(request, models)->stop_token_ids, std::vector<int32_t>{7});
}

struct RefusedCase {
  std::string name;
  std::function<void(ClientRequest&)> change;
  std::string message;  // Part of it.
  std::string field;
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

class AdmissionRefusesTest : public ::testing::TestWithParam<RefusedCase> {};

TEST_P(AdmissionRefusesTest, WithFieldValueAndBound) {
  const auto models = OneModel();
  ClientRequest request = GoodRequest();
  GetParam().change(request);
  const auto ticket = TryAdmit(request, models);
  ASSERT_FALSE(ticket.ok());
  EXPECT_EQ(ticket.status().code(), GetParam().code);
  EXPECT_THAT(MessageOf(ticket.status()), HasSubstr(GetParam().message));
  EXPECT_EQ(FieldOf(ticket.status()), GetParam().field);
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

const RefusedCase kRefused[] = {
    {.name = "unknown_model",
     .change = [](auto& it) { it.model = "gpt"; },
     .message = "model \"gpt\" is not served here; served are m",
     .field = "model",
     .code = absl::StatusCode::kNotFound},
    {.name = "deadline_passed",
     .change = [](auto& it) { it.deadline_ns = 2000; },
     .message = "the deadline passed",
     .field = "",
     .code = absl::StatusCode::kDeadlineExceeded},
    {.name = "empty_text",
     .change = [](auto& it) { it.prompt = TextPrompt{}; },
     .message = "text is empty",
     .field = "text"},
    {.name = "text_not_utf8",
     .change = [](auto& it) { it.prompt = TextPrompt{"ab\xff"}; },
     .message = "text is not UTF-8 at byte 2",
     .field = "text"},
    {.name = "no_messages",
     .change = [](auto& it) { it.prompt = Conversation(); },
     .message = "messages is empty",
     .field = "messages"},
    {.name = "no_ids",
     .change = [](auto& it) { it.prompt = TokenPrompt{}; },
     .message = "ids is empty",
     .field = "ids"},
    {.name = "id_beyond_vocabulary",
     .change =
         [](auto& it) {
           it.prompt = TokenPrompt{{1, 1'000'000}};
         },
     .message = "ids[1] is 1000000; it must be from 0 to",
     .field = "ids[1]"},
    {.name = "temperature",
     .change = [](auto& it) { it.sampling.set_temperature(2.5F); },
     .message = "sampling.temperature is 2.5; it must be from 0 to 2",
     .field = "sampling.temperature"},
    {.name = "temperature_nan",
     .change = [](auto& it) { it.sampling.set_temperature(kNan); },
     .message = "sampling.temperature is nan",
     .field = "sampling.temperature"},
    {.name = "top_p_zero",
     .change = [](auto& it) { it.sampling.set_top_p(0); },
     .message = "sampling.top_p is 0; it must be above 0 and at most 1",
     .field = "sampling.top_p"},
    {.name = "top_k",
     .change = [](auto& it) { it.sampling.set_top_k(-2); },
     .message = "sampling.top_k is -2",
     .field = "sampling.top_k"},
    {.name = "penalty",
     .change = [](auto& it) { it.sampling.set_presence_penalty(-3); },
     .message = "sampling.presence_penalty is -3; it must be from -2 to 2",
     .field = "sampling.presence_penalty"},
    {.name = "bias_of_no_token",
     .change = [](auto& it) { (*it.sampling.mutable_logit_bias())[-1] = 1; },
     .message = "names token -1",
     .field = "sampling.logit_bias"},
    {.name = "bias_too_large",
     .change = [](auto& it) { (*it.sampling.mutable_logit_bias())[1] = 101; },
     .message = "of token 1 is 101; it must be from -100 to 100",
     .field = "sampling.logit_bias"},
    {.name = "no_new_tokens",
     .change = [](auto& it) { it.limits.set_new_tokens_max(0); },
     .message = "limits.new_tokens_max is 0; it must be at least 1",
     .field = "limits.new_tokens_max"},
    {.name = "too_many_stops",
     .change =
         [](auto& it) {
           for (int i = 0; i < 17; ++i) it.limits.add_stop("x");
         },
     .message = "limits.stop has 17 strings; at most 16",
     .field = "limits.stop"},
    {.name = "empty_stop",
     .change = [](auto& it) { it.limits.add_stop(""); },
     .message = "limits.stop has a string of 0 bytes; each has 1 to 256",
     .field = "limits.stop"},
    {.name = "stop_token_beyond_vocabulary",
     .change = [](auto& it) { it.limits.add_stop_token_ids(-1); },
     .message = "limits.stop_token_ids has -1",
     .field = "limits.stop_token_ids"},
    {.name = "logprobs",
     .change = [](auto& it) { it.logprobs = 21; },
     .message = "logprobs is 21; it must be from 0 to 20",
     .field = "logprobs"},
    {.name = "long_client_request_id",
     .change = [](auto& it) { it.client_request_id = std::string(129, 'x'); },
     .message = "client_request_id has 129 bytes; at most 128",
     .field = "client_request_id"},
};

INSTANTIATE_TEST_SUITE_P(All,
                         AdmissionRefusesTest,
                         ::testing::ValuesIn(kRefused),
                         [](const auto& row) { return row.param.name; });

struct FitCase {
  std::string name;
  int32_t asked = 0;
  int32_t prompt = 0;
  int32_t context = 0;
  int32_t want = 0;     // 0: refused.
  std::string message;  // Then part of it.
};

class FitContextTest : public ::testing::TestWithParam<FitCase> {};

TEST_P(FitContextTest, GivesWhatFitsOrSaysWhatWould) {
  Ticket ticket;
  ticket.new_tokens_max = GetParam().asked;
  const std::vector<int32_t> prompt(static_cast<size_t>(GetParam().prompt));
  const auto fits = FitContext(ticket, prompt, GetParam().context);
  EXPECT_EQ(fits.ok() ? *fits : 0, GetParam().want);
  EXPECT_THAT(MessageOf(fits.status()), HasSubstr(GetParam().message));
}

const FitCase kFits[] = {
    {.name = "asked_for_less", .asked = 5, .prompt = 10, .context = 100, .want = 5, .message = ""},
    {.name = "asked_for_all", .asked = 90, .prompt = 10, .context = 100, .want = 90, .message = ""},
    {.name = "default_is_the_rest", .prompt = 10, .context = 100, .want = 90, .message = ""},
    {.name = "default_is_bounded", .prompt = 10, .context = 9000, .want = 2048, .message = ""},
    {.name = "one_too_many",
     .asked = 91,
     .prompt = 10,
     .context = 100,
     .message = "limits.new_tokens_max is 91; at most 90 fit after a prompt of 10"},
    {.name = "prompt_fills_the_context",
     .prompt = 100,
     .context = 100,
     .message = "prompt has 100 tokens; at most 99 fit before one new token"},
};

INSTANTIATE_TEST_SUITE_P(All, FitContextTest, ::testing::ValuesIn(kFits), [](const auto& row) {
  return row.param.name;
});

}  // namespace
}  // namespace facet::router
