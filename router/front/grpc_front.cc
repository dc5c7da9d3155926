#include "router/front/grpc_front.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <map>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "facet/v1/inference.grpc.pb.h"
#include "proto/grpc_status.h"
#include "router/front/conversation_from_proto.h"

namespace facet::router {
namespace {

constexpr char kServiceName[] = "facet.v1.InferenceService";

v1::ChatResponse ToResponse(AnswerEvent event, v1::ChatResponse* /*type*/) { return event; }

// A continued prompt has no thoughts and no tool calls.
v1::GenerateResponse ToResponse(AnswerEvent event, v1::GenerateResponse* /*type*/) {
  v1::GenerateResponse response;
  if (event.has_accepted()) *response.mutable_accepted() = std::move(*event.mutable_accepted());
  if (event.has_text()) *response.mutable_text() = std::move(*event.mutable_text());
  if (event.has_finished()) *response.mutable_finished() = std::move(*event.mutable_finished());
  return response;
}

// One streaming call: it takes events from the stream that it is, one write at a time. Every
// request ends with one End, and only the end finishes the call, so the reactor outlives the
// request. The stream is shared with the request; `self_` is gRPC's share, given up in OnDone.
template <typename Response>
class StreamCall final : public AnswerStream, public grpc::ServerWriteReactor<Response> {
 public:
  static grpc::ServerWriteReactor<Response>* Start(Router& router,
                                                   StatusOr<ClientRequest> request) {
    auto call = std::make_shared<StreamCall>(router);
    call->self_ = call;
    if (request.ok()) {
      std::string request_id = router.Accept(std::move(*request), call);
      absl::MutexLock lock(&call->mutex_);
      call->request_id_ = std::move(request_id);
    } else {
      call->End(request.status());
    }
    return call.get();
  }

  explicit StreamCall(Router& router) : router_(router) {}

  void OnReadable() override {
    auto next = Next();
    if (!next.has_value()) return;
    if (auto* event = std::get_if<AnswerEvent>(&*next)) {
      response_ = ToResponse(std::move(*event), static_cast<Response*>(nullptr));
      this->StartWrite(&response_);
    } else {
      this->Finish(ToGrpcStatus(std::get<Status>(*next)));
    }
  }

  void OnWriteDone(bool ok) override {
    if (!ok) GoneAway();
    OnReadable();  // After a failed write the rest fails fast, up to the end.
  }

  void OnCancel() override { GoneAway(); }

  void OnDone() override { self_.reset(); }

 private:
  void GoneAway() {
    MarkClientGone();
    std::string request_id;
    {
      absl::MutexLock lock(&mutex_);
      request_id = request_id_;
    }
    // Before Accept returned there is no id; the flag is then found where the request registers.
    if (!request_id.empty()) router_.OnClientGone(request_id);
  }

  Router& router_;
  std::shared_ptr<StreamCall> self_;
  Response response_;  // Of the write in flight.
  absl::Mutex mutex_;
  std::string request_id_ ABSL_GUARDED_BY(mutex_);
};

// What both streaming calls have.
template <typename Request>
ClientRequest CommonRequest(const Request& message,
                            std::string tenant,
                            const grpc::CallbackServerContext& context,
                            const Clock& clock) {
  ClientRequest request;
  request.tenant = std::move(tenant);
  request.model = message.model();
  request.sampling = message.sampling();
  request.limits = message.limits();
  request.logprobs = message.logprobs();
  request.client_request_id = message.client_request_id();
  request.arrival_ns = clock.NowNs();
  if (context.deadline() != std::chrono::system_clock::time_point::max()) {
    const auto left = context.deadline() - std::chrono::system_clock::now();
    request.deadline_ns =
        request.arrival_ns + std::chrono::duration_cast<std::chrono::nanoseconds>(left).count();
  }
  return request;
}

class InferenceServiceImpl final : public v1::InferenceService::CallbackService {
 public:
  InferenceServiceImpl(const TenantDirectory& tenants, Router& router)
      : tenants_(tenants), router_(router) {}

  grpc::ServerWriteReactor<v1::ChatResponse>* Chat(grpc::CallbackServerContext* context,
                                                   const v1::ChatRequest* message) override {
    const auto convert = [&]() -> StatusOr<ClientRequest> {
      FACET_ASSIGN_OR_RETURN(std::string tenant, TenantOf(*context));
      ClientRequest request = CommonRequest(*message, std::move(tenant), *context, router_.clock());
      FACET_ASSIGN_OR_RETURN(request.prompt, ConversationFromProto(*message));
      return request;
    };
    return StreamCall<v1::ChatResponse>::Start(router_, convert());
  }

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* message) override {
    const auto convert = [&]() -> StatusOr<ClientRequest> {
      FACET_ASSIGN_OR_RETURN(std::string tenant, TenantOf(*context));
      ClientRequest request = CommonRequest(*message, std::move(tenant), *context, router_.clock());
      if (message->has_ids()) {
        request.prompt = TokenPrompt{{message->ids().ids().begin(), message->ids().ids().end()}};
      } else {
        request.prompt = TextPrompt{message->text()};
      }
      return request;
    };
    return StreamCall<v1::GenerateResponse>::Start(router_, convert());
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    return Reply(*context, *response, [&] { return router_.Tokenize(*request); });
  }

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* /*request*/,
                                       v1::ListModelsResponse* response) override {
    return Reply(*context, *response, [&] { return router_.ListModels(); });
  }

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest* /*request*/,
                                      v1::GetStatusResponse* response) override {
    return Reply(*context, *response, [&] { return router_.GetStatus(); });
  }

 private:
  StatusOr<std::string> TenantOf(const grpc::CallbackServerContext& context) const {
    const auto header = [&context](const char* name) -> std::string_view {
      const auto found = context.client_metadata().find(name);
      if (found == context.client_metadata().end()) return {};
      return {found->second.data(), found->second.size()};
    };
    StatusOr<std::string> tenant =
        tenants_.TenantOf(ApiKeyOf(header("authorization"), header("x-api-key")));
    if (!tenant.ok()) router_.metrics().Write()->requests_unauthenticated.At("grpc").Add(1);
    return tenant;
  }

  // Answers a unary call with what answer() gives, if the caller is some tenant.
  template <typename Response, typename Answer>
  grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext& context,
                                  Response& response,
                                  const Answer& answer) const {
    Status status = TenantOf(context).status();
    if (status.ok()) {
      StatusOr<Response> result = answer();
      if (result.ok()) response = std::move(*result);
      status = result.status();
    }
    grpc::ServerUnaryReactor* reactor = context.DefaultReactor();
    reactor->Finish(ToGrpcStatus(status));
    return reactor;
  }

  const TenantDirectory& tenants_;
  Router& router_;
};

}  // namespace

class GrpcFront::Server {
 public:
  Server(const TenantDirectory& tenants, Router& router)
      : router_(router), service_(tenants, router) {}

  Status Listen(const Options& options) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    builder.AddListeningPort(options.address, options.credentials, &port_);
    builder.SetMaxReceiveMessageSize(options.message_bytes_max);
    builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 16 << 10);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 1024);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    // A second router on the same port must fail, not share it.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      return Unavailable("cannot listen for gRPC on ", options.address,
                         "; is the address free and the port not in use?");
    }
    SetHealth(FleetSnapshot());
    router_.set_snapshot_listener([this](const FleetSnapshot& snapshot) { SetHealth(snapshot); });
    return absl::OkStatus();
  }

  // Serving if some model has a ready worker; each model has a name of its own besides.
  void SetHealth(const FleetSnapshot& snapshot) {
    bool any = false;
    absl::MutexLock lock(&mutex_);
    for (const ServedModel& model : router_.models()) {
      const bool ready = !draining_ && snapshot.AnyReady(model.name);
      any = any || ready;
      SetServing(StrCat(kServiceName, "/", model.name), ready);
    }
    SetServing("", any);
    SetServing(kServiceName, any);
  }

  void BeginDrain() {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
    for (const auto& [name, serving] : serving_) {
      if (serving) server_->GetHealthCheckService()->SetServingStatus(name, false);
    }
    serving_.clear();
  }

  void Shutdown(int64_t wait_ms_max) {
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(wait_ms_max));
    server_->Wait();
  }

  int port() const { return port_; }

 private:
  void SetServing(const std::string& name, bool serving) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto [it, added] = serving_.try_emplace(name, serving);
    if (!added && it->second == serving) return;
    it->second = serving;
    server_->GetHealthCheckService()->SetServingStatus(name, serving);
  }

  Router& router_;
  InferenceServiceImpl service_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  absl::Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, bool> serving_ ABSL_GUARDED_BY(mutex_);  // As health says now.
};

StatusOr<std::unique_ptr<GrpcFront>> GrpcFront::Start(const Options& options,
                                                      const TenantDirectory& tenants,
                                                      Router& router) {
  auto server = std::make_unique<Server>(tenants, router);
  FACET_RETURN_IF_ERROR(server->Listen(options));
  return std::unique_ptr<GrpcFront>(new GrpcFront(std::move(server)));
}

GrpcFront::GrpcFront(std::unique_ptr<Server> server) : server_(std::move(server)) {}

GrpcFront::~GrpcFront() = default;

int GrpcFront::port() const { return server_->port(); }

void GrpcFront::BeginDrain() { server_->BeginDrain(); }

void GrpcFront::Shutdown(int64_t wait_ms_max) { server_->Shutdown(wait_ms_max); }

}  // namespace facet::router
