#include "cli/client.h"

#include <grpcpp/grpcpp.h>

#include <chrono>

#include "absl/synchronization/mutex.h"
#include "facet/v1/inference.grpc.pb.h"
#include "proto/grpc_status.h"

namespace facet {
namespace {

constexpr int64_t kListTimeoutMs = 5'000;

std::unique_ptr<v1::InferenceService::Stub> MakeStub(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 << 20);
  // Connections are not shared between clients, nor is their waiting after a refusal.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return v1::InferenceService::NewStub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

}  // namespace

struct Client::Connection {
  std::unique_ptr<v1::InferenceService::Stub> stub;
  absl::Mutex mutex;
  grpc::ClientContext* running ABSL_GUARDED_BY(mutex) = nullptr;

  // What Cancel cancels while it lives.
  class Call {
   public:
    explicit Call(Connection& connection) : connection_(connection) {
      absl::MutexLock lock(&connection_.mutex);
      connection_.running = &context;
    }

    ~Call() {
      absl::MutexLock lock(&connection_.mutex);
      connection_.running = nullptr;
    }

    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    void SetTimeout(int64_t timeout_ms) {
      context.set_deadline(std::chrono::system_clock::now() +
                           std::chrono::milliseconds(timeout_ms));
    }

    grpc::ClientContext context;

   private:
    Connection& connection_;
  };
};

namespace {

// A connection that was never made carries no details of ours: say what to do about it.
Status Explain(const grpc::Status& status, const std::string& address) {
  if (status.ok()) return absl::OkStatus();
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE && status.error_details().empty()) {
    return Unavailable("no router answers at ", address,
                       "; start one with `facet up`, or name another with --address");
  }
  return FromGrpcStatus(status);
}

template <typename Response, typename Reader>
grpc::Status ReadAll(Reader& reader, const std::function<void(const Response&)>& on_event) {
  Response response;
  while (reader.Read(&response)) on_event(response);
  return reader.Finish();
}

}  // namespace

Client::Client(const std::string& address)
    : address_(address), connection_(std::make_unique<Connection>()) {
  connection_->stub = MakeStub(address);
}

Client::~Client() = default;

Status Client::Chat(const v1::ChatRequest& request,
                    const std::function<void(const v1::ChatResponse&)>& on_event) {
  Connection::Call call(*connection_);
  const auto reader = connection_->stub->Chat(&call.context, request);
  return Explain(ReadAll<v1::ChatResponse>(*reader, on_event), address_);
}

Status Client::Generate(const v1::GenerateRequest& request,
                        const std::function<void(const v1::GenerateResponse&)>& on_event) {
  Connection::Call call(*connection_);
  const auto reader = connection_->stub->Generate(&call.context, request);
  return Explain(ReadAll<v1::GenerateResponse>(*reader, on_event), address_);
}

StatusOr<v1::ListModelsResponse> Client::ListModels() {
  Connection::Call call(*connection_);
  call.SetTimeout(kListTimeoutMs);
  v1::ListModelsResponse response;
  FACET_RETURN_IF_ERROR(
      Explain(connection_->stub->ListModels(&call.context, {}, &response), address_));
  return response;
}

StatusOr<v1::GetStatusResponse> Client::GetStatus(int64_t timeout_ms) {
  Connection::Call call(*connection_);
  call.SetTimeout(timeout_ms);
  v1::GetStatusResponse response;
  FACET_RETURN_IF_ERROR(
      Explain(connection_->stub->GetStatus(&call.context, {}, &response), address_));
  return response;
}

bool Client::Cancel() {
  absl::MutexLock lock(&connection_->mutex);
  if (connection_->running == nullptr) return false;
  connection_->running->TryCancel();
  return true;
}

}  // namespace facet
