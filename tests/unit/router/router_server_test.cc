// The whole router in this process: real gRPC and HTTP over loopback, scripted workers.
#include "router/router_server.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <future>
#include <thread>

#include "facet/v1/inference.grpc.pb.h"
#include "proto/grpc_status.h"
#include "proto/tenants_file.h"
#include "tests/support/fake_worker.h"
#include "tests/support/http_client.h"
#include "tests/support/router_models.h"

namespace facet::router {
namespace {

using facet::testing::HttpCall;
using facet::testing::ScriptedWorker;
using facet::testing::SmallModel;
using ::testing::HasSubstr;
using ::testing::Not;

// What a router and one worker of model m say; the script generates `text`, then <turn|>.
ScriptedWorker::Options Script(const std::string& text, int index = 0) {
  ScriptedWorker::Options options;
  options.describe.set_model("m");
  options.describe.set_pool("p");
  options.describe.set_index(index);
  options.describe.set_config_digest("c0");
  options.describe.set_tokenizer_digest("t0");
  options.describe.set_context_tokens_max(100);
  options.describe.set_numerics_id("n");
  const ServedModel model = SmallModel();
  std::vector<int32_t> ids = *model.tokenizer->Encode(text);
  ids.push_back(model.stop_token_ids[0]);
  options.tokens = [ids](const worker::v1::Submit&) { return ids; };
  return options;
}

class RouterServerTest : public ::testing::Test {
 protected:
  enum class Await { kReady, kNothing };

  // A router for these workers; returns once all of them are ready, unless told not to wait.
  void Serve(const std::vector<const ScriptedWorker*>& workers,
             int relay_threads = 1,
             Await await = Await::kReady) {
    v1::ClusterConfig config;
    config.set_tenants_file(tenants_file_);
    v1::RouterConfig& router = *config.mutable_router();
    router.set_grpc_address("127.0.0.1:0");
    router.set_http_address("127.0.0.1:0");
    router.set_metrics_address("off");
    router.set_relay_threads(relay_threads);
    router.set_prepare_threads(1);
    router.set_queue_requests_max(64);
    router.set_queue_wait_ms_max(queue_wait_ms_max_);
    router.set_deadline_ms_default(60'000);
    router.set_message_bytes_max(1 << 20);
    router.set_drain_ms_max(5000);
    v1::PoolConfig& pool = *config.add_pools();
    pool.set_name("p");
    pool.set_model("m");
    for (const ScriptedWorker* worker : workers) {
      pool.add_workers()->set_grpc_address(worker->address());
    }
    std::vector<ServedModel> models;
    models.push_back(SmallModel());
    auto server = RouterServer::Start(
        config,
        std::make_unique<Router>(config, std::move(models), RouterOptions(), Clock::Real()));
    ASSERT_TRUE(server.ok()) << MessageOf(server.status());
    server_ = std::move(*server);
    stub_ = v1::InferenceService::NewStub(grpc::CreateChannel(
        StrCat("127.0.0.1:", server_->grpc_port()), grpc::InsecureChannelCredentials()));
    if (await == Await::kReady) AwaitReady(static_cast<int32_t>(workers.size()));
  }

  // Asks until so many workers are ready; the test's own time limit bounds it.
  void AwaitReady(int32_t count) {
    while (server_->router().ListModels().models(0).workers_ready() != count) {
      std::this_thread::yield();
    }
  }

  struct Answer {
    std::vector<v1::ChatResponse> events;
    std::string text;
    v1::Finished finished;
    Status status;
  };

  Answer Chat(const std::function<void(v1::ChatRequest&)>& change = {}) {
    grpc::ClientContext context;
    v1::ChatRequest request;
    request.set_model("m");
    v1::Message& message = *request.add_messages();
    message.set_role("user");
    message.set_content("hi");
    if (change) change(request);
    auto reader = stub_->Chat(&context, request);
    Answer answer;
    v1::ChatResponse event;
    while (reader->Read(&event)) {
      answer.text += event.text().text();
      if (event.has_finished()) answer.finished = event.finished();
      answer.events.push_back(event);
    }
    answer.status = FromGrpcStatus(reader->Finish());
    return answer;
  }

  int64_t queue_wait_ms_max_ = 5000;
  std::string tenants_file_;
  std::unique_ptr<RouterServer> server_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

TEST_F(RouterServerTest, AChatIsAcceptedAnsweredAndFinished) {
  const ScriptedWorker worker(Script("hello"));
  Serve({&worker});
  const Answer answer = Chat();
  ASSERT_TRUE(answer.status.ok()) << MessageOf(answer.status);
  EXPECT_TRUE(answer.events.front().has_accepted());
  EXPECT_EQ(answer.events.front().accepted().worker(), "p/0");
  EXPECT_EQ(answer.text, "hello");
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(answer.finished.usage().prefill_device_ns(), 1000);
  EXPECT_GT(answer.finished.usage().cost_nano_usd(), 0);
  EXPECT_EQ(worker.submits().size(), 1u);
}

TEST_F(RouterServerTest, ThoughtsAndToolCallsAreTypedEvents) {
  const ScriptedWorker worker(
      Script("<|channel>thought\nhm<channel|>ok<|tool_call>call:f{x:1}<tool_call|>"));
  Serve({&worker});
  const Answer answer = Chat();
  ASSERT_TRUE(answer.status.ok()) << MessageOf(answer.status);
  std::string thought;
  std::vector<v1::ToolCall> calls;
  for (const v1::ChatResponse& event : answer.events) {
    thought += event.thought().text();
    if (event.has_tool_call()) calls.push_back(event.tool_call());
  }
  EXPECT_EQ(thought, "hm");
  EXPECT_EQ(answer.text, "ok");
  ASSERT_EQ(calls.size(), 1u);
  EXPECT_EQ(calls[0].name(), "f");
  EXPECT_EQ(calls[0].arguments().fields().at("x").number_value(), 1);
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_REASON_TOOL_CALLS);
  EXPECT_GT(answer.finished.usage().thinking_tokens(), 0);
}

TEST_F(RouterServerTest, GenerateContinuesTokenIds) {
  const ScriptedWorker worker(Script("abc"));
  Serve({&worker});
  grpc::ClientContext context;
  v1::GenerateRequest request;
  request.mutable_ids()->add_ids(5);
  auto reader = stub_->Generate(&context, request);
  v1::GenerateResponse event;
  std::string text;
  while (reader->Read(&event)) text += event.text().text();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, "abc");
  EXPECT_EQ(worker.submits().at(0).prompt_ids_size(), 1);
}

TEST_F(RouterServerTest, AWrongRequestIsRefusedWithItsField) {
  const ScriptedWorker worker(Script("x"));
  Serve({&worker});
  const Answer answer =
      Chat([](v1::ChatRequest& request) { request.mutable_sampling()->set_temperature(9); });
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FieldOf(answer.status), "sampling.temperature");
  EXPECT_TRUE(answer.events.empty());
}

TEST_F(RouterServerTest, ManyRequestsAtOnceAreAllAnswered) {
  const ScriptedWorker first(Script("first", 0));
  ScriptedWorker::Options few = Script("second", 1);
  few.sequence_credits = 2;
  const ScriptedWorker second(few);
  Serve({&first, &second}, /*relay_threads=*/2);
  std::vector<std::future<Answer>> answers;
  for (int i = 0; i < 32; ++i) answers.push_back(std::async([this] { return Chat(); }));
  for (auto& answer : answers) {
    const Answer got = answer.get();
    EXPECT_TRUE(got.status.ok()) << MessageOf(got.status);
    EXPECT_TRUE(got.text == "first" || got.text == "second");
  }
  EXPECT_EQ(first.submits().size() + second.submits().size(), 32u);
}

TEST_F(RouterServerTest, ARequestWaitsForACreditAndThenStarts) {
  ScriptedWorker::Options options = Script("abc");
  options.sequence_credits = 1;
  const ScriptedWorker worker(options);
  Serve({&worker});
  auto one = std::async([this] { return Chat(); });
  auto two = std::async([this] { return Chat(); });
  EXPECT_TRUE(one.get().status.ok());
  EXPECT_TRUE(two.get().status.ok());
}

TEST_F(RouterServerTest, ARequestThatCameBeforeItsWorkerIsFittedToIt) {
  // The model's files allow 128 tokens, this worker 100: known only once it is there.
  const ScriptedWorker worker(Script("abc"));
  Serve({&worker}, /*relay_threads=*/1, Await::kNothing);
  const Answer open = Chat();
  EXPECT_TRUE(open.status.ok()) << MessageOf(open.status);
  EXPECT_LT(worker.submits().at(0).new_tokens_max(), 100);
}

TEST_F(RouterServerTest, AClientThatCancelsStopsTheWorker) {
  ScriptedWorker::Options options = Script("a long answer");
  options.hold_after = 2;
  const ScriptedWorker worker(options);
  Serve({&worker});
  grpc::ClientContext context;
  v1::GenerateRequest request;
  request.set_text("x");
  auto reader = stub_->Generate(&context, request);
  v1::GenerateResponse event;
  ASSERT_TRUE(reader->Read(&event));
  context.TryCancel();
  worker.AwaitCancel();
  EXPECT_EQ(worker.cancels().at(0).reason(), worker::v1::CANCEL_REASON_CLIENT_GONE);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(RouterServerTest, AStopStringStopsTheWorker) {
  ScriptedWorker::Options options = Script("one two three");
  options.hold_after = 12;
  const ScriptedWorker worker(options);
  Serve({&worker});
  const Answer answer =
      Chat([](v1::ChatRequest& request) { request.mutable_limits()->add_stop("two"); });
  EXPECT_EQ(answer.text, "one ");
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_REASON_STOP);
  worker.AwaitCancel();
}

TEST_F(RouterServerTest, AKilledWorkerEndsItsRequestsWithAReason) {
  ScriptedWorker::Options options = Script("a long answer");
  options.hold_after = 2;
  ScriptedWorker worker(options);
  Serve({&worker});
  grpc::ClientContext context;
  v1::GenerateRequest request;
  request.set_text("x");
  auto reader = stub_->Generate(&context, request);
  v1::GenerateResponse event;
  ASSERT_TRUE(reader->Read(&event));
  worker.Kill();
  while (reader->Read(&event)) {
  }
  const Status status = FromGrpcStatus(reader->Finish());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), "WORKER_LOST");
  EXPECT_THAT(MessageOf(status), HasSubstr("p/0"));
}

TEST_F(RouterServerTest, WithoutAWorkerARequestWaitsThenIsUnavailable) {
  queue_wait_ms_max_ = 50;
  Serve({});
  const Answer answer = Chat();
  EXPECT_EQ(answer.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(answer.status), "NO_WORKER");
  EXPECT_TRUE(RetryAfterMsOf(answer.status).has_value());
}

TEST_F(RouterServerTest, DrainFinishesWhatRunsAndRefusesWhatComes) {
  ScriptedWorker::Options options = Script("abcdefghij");
  options.token_ms = 20;
  const ScriptedWorker worker(options);
  Serve({&worker});
  grpc::ClientContext context;
  v1::GenerateRequest request;
  request.set_text("x");
  auto reader = stub_->Generate(&context, request);
  v1::GenerateResponse event;
  ASSERT_TRUE(reader->Read(&event));
  auto drained = std::async([this] { server_->Drain(); });
  std::string text;
  while (reader->Read(&event)) text += event.text().text();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, "abcdefghij");
  drained.get();
}

constexpr char kBody[] = R"({"model": "m", "messages": [{"role": "user", "content": "hi"}]})";
constexpr char kStreamBody[] =
    R"({"model": "m", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "hi"}]})";

TEST_F(RouterServerTest, HttpAnswersAsAWholeAndAsAStream) {
  const ScriptedWorker worker(Script("hello"));
  Serve({&worker});
  const std::string whole = HttpCall(server_->http_port(), "POST", "/v1/chat/completions", kBody);
  EXPECT_THAT(whole, HasSubstr("HTTP/1.1 200 OK"));
  EXPECT_THAT(whole, HasSubstr(R"("content":"hello")"));
  EXPECT_THAT(whole, HasSubstr(R"("cost_nano_usd":)"));
  const std::string stream =
      HttpCall(server_->http_port(), "POST", "/v1/chat/completions", kStreamBody);
  EXPECT_THAT(stream, HasSubstr("text/event-stream"));
  EXPECT_THAT(stream, HasSubstr(R"("finish_reason":"stop")"));
  EXPECT_THAT(stream, HasSubstr(R"("usage":{"prompt_tokens")"));
  EXPECT_THAT(stream, HasSubstr("data: [DONE]\n\n"));
}

class RouterTenantsTest : public RouterServerTest {
 protected:
  RouterTenantsTest() {
    tenants_file_ = StrCat(::testing::TempDir(), "router-tenants-", getpid(), ".yaml");
    std::ofstream(tenants_file_) << "tenants: [{name: acme, keys: [\"" << KeyHash("k1") << "\"]}]";
  }

  ~RouterTenantsTest() override { std::remove(tenants_file_.c_str()); }

  // A unary or streaming call with this metadata.
  template <typename Call>
  Status With(const std::string& name, const std::string& value, const Call& call) {
    grpc::ClientContext context;
    if (!name.empty()) context.AddMetadata(name, value);
    return FromGrpcStatus(call(context));
  }
};

TEST_F(RouterTenantsTest, EveryMethodNeedsAKeyAndTheKeyNamesTheTenant) {
  const ScriptedWorker worker(Script("hello"));
  Serve({&worker});
  const auto chat = [&](grpc::ClientContext& context) {
    v1::ChatRequest request;
    v1::Message& message = *request.add_messages();
    message.set_role("user");
    message.set_content("hi");
    const auto reader = stub_->Chat(&context, request);
    v1::ChatResponse event;
    while (reader->Read(&event)) {
    }
    return reader->Finish();
  };
  // What is wrong with a request without a key is not looked at: the prompt is missing here.
  const auto generate = [&](grpc::ClientContext& context) {
    const auto reader = stub_->Generate(&context, {});
    v1::GenerateResponse event;
    while (reader->Read(&event)) {
    }
    return reader->Finish();
  };
  const auto tokenize = [&](grpc::ClientContext& context) {
    v1::TokenizeResponse response;
    return stub_->Tokenize(&context, {}, &response);
  };
  const auto list_models = [&](grpc::ClientContext& context) {
    v1::ListModelsResponse response;
    return stub_->ListModels(&context, {}, &response);
  };
  const auto get_status = [&](grpc::ClientContext& context) {
    v1::GetStatusResponse response;
    return stub_->GetStatus(&context, {}, &response);
  };
  const auto refused = [&](const auto& call) {
    for (const auto& [name, value] :
         std::vector<std::pair<std::string, std::string>>{{"", ""},
                                                          {"authorization", "Bearer k2"},
                                                          {"authorization", "k1"},
                                                          {"x-api-key", "k2"}}) {
      const Status status = With(name, value, call);
      EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << name << value;
      EXPECT_EQ(ReasonOf(status), "INVALID_API_KEY");
    }
  };
  refused(chat);
  refused(generate);
  refused(tokenize);
  refused(list_models);
  refused(get_status);
  EXPECT_TRUE(worker.submits().empty());
  EXPECT_TRUE(With("x-api-key", "k1", list_models).ok());
  EXPECT_TRUE(With("x-api-key", "k1", get_status).ok());
  const Status status = With("authorization", "Bearer k1", chat);
  EXPECT_TRUE(status.ok()) << MessageOf(status);
  ASSERT_EQ(worker.submits().size(), 1u);
  EXPECT_EQ(worker.submits()[0].tenant(), "acme");
}

TEST_F(RouterTenantsTest, HttpRefusesBeforeItReadsTheBody) {
  const ScriptedWorker worker(Script("hello"));
  Serve({&worker});
  const int port = server_->http_port();
  for (const std::string headers : {"", "Authorization: Bearer k2\r\n", "X-Api-Key: k2\r\n"}) {
    for (const char* path : {"/v1/chat/completions", "/v1/models", "/nothing"}) {
      const std::string answer = HttpCall(port, "POST", path, "{", headers);
      EXPECT_THAT(answer, HasSubstr("HTTP/1.1 401 Unauthorized"));
      EXPECT_THAT(answer, HasSubstr("WWW-Authenticate: Bearer"));
      EXPECT_THAT(answer, HasSubstr(R"("type":"invalid_request_error")"));
      EXPECT_THAT(answer, HasSubstr(R"("code":"invalid_api_key")"));
      EXPECT_THAT(answer, Not(HasSubstr("k2")));
    }
  }
  // The body never comes, and the answer does.
  const int fd = testing::ConnectTo(port);
  testing::SendAll(fd,
                   "POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\n");
  EXPECT_THAT(testing::ReadAll(fd), HasSubstr("HTTP/1.1 401"));
  close(fd);
  EXPECT_TRUE(worker.submits().empty());

  EXPECT_THAT(HttpCall(port, "GET", "/health"), HasSubstr("HTTP/1.1 200"));
  EXPECT_THAT(HttpCall(port, "POST", "/v1/chat/completions", kBody, "Authorization: Bearer k1\r\n"),
              HasSubstr(R"("content":"hello")"));
  ASSERT_EQ(worker.submits().size(), 1u);
  EXPECT_EQ(worker.submits()[0].tenant(), "acme");
}

struct HttpCase {
  std::string name;
  std::string method;
  std::string path;
  std::string body;
  std::string status;
  std::string text;  // Part of the answer.
};

class RouterHttpTest : public RouterServerTest, public ::testing::WithParamInterface<HttpCase> {};

TEST_P(RouterHttpTest, AnswersWithTheRightStatus) {
  const ScriptedWorker worker(Script("x"));
  Serve({&worker});
  const HttpCase& row = GetParam();
  const std::string answer = HttpCall(server_->http_port(), row.method, row.path, row.body);
  EXPECT_THAT(answer, HasSubstr("HTTP/1.1 " + row.status));
  EXPECT_THAT(answer, HasSubstr(row.text));
}

const HttpCase kHttp[] = {
    {"health", "GET", "/health", "", "200", R"({"status":"ok"})"},
    {"models", "GET", "/v1/models", "", "200", R"("id":"m")"},
    {"one_model", "GET", "/v1/models/m", "", "200", R"("object":"model")"},
    {"no_such_model", "GET", "/v1/models/x", "", "404", "model_not_found"},
    {"chat_with_unknown_model", "POST", "/v1/chat/completions",
     R"({"model": "x", "messages": [{"role": "user", "content": "hi"}]})", "404",
     "model_not_found"},
    {"unknown_path", "GET", "/v2", "", "404", "nothing is at /v2"},
    {"wrong_method", "GET", "/v1/chat/completions", "", "405", "is not served"},
    {"broken_json", "POST", "/v1/chat/completions", "{", "400", "not valid JSON"},
    {"bad_temperature", "POST", "/v1/chat/completions",
     R"({"model": "m", "temperature": 3, "messages": [{"role": "user", "content": "hi"}]})", "400",
     R"("param":"temperature")"},
    {"long_body", "POST", "/v1/chat/completions", std::string((1 << 20) + 1, ' '), "413",
     "at most 1048576 bytes"},
};

INSTANTIATE_TEST_SUITE_P(All, RouterHttpTest, ::testing::ValuesIn(kHttp), [](const auto& row) {
  return row.param.name;
});

TEST_F(RouterServerTest, AnHttpClientThatLeavesStopsTheWorker) {
  ScriptedWorker::Options options = Script("a long answer");
  options.hold_after = 0;  // Nothing is ever written, so only the closed socket can tell.
  const ScriptedWorker worker(options);
  Serve({&worker});
  const int fd = facet::testing::ConnectTo(server_->http_port());
  facet::testing::SendAll(fd, facet::testing::HttpRequest("POST", "/v1/chat/completions", kBody));
  while (worker.submits().empty()) std::this_thread::yield();
  close(fd);
  worker.AwaitCancel();
  EXPECT_EQ(worker.cancels().at(0).reason(), worker::v1::CANCEL_REASON_CLIENT_GONE);
}

}  // namespace
}  // namespace facet::router
