#include "cli/client.h"

#include <grpcpp/grpcpp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>

#include "absl/synchronization/mutex.h"
#include "base/file.h"
#include "facet/v1/inference.grpc.pb.h"
#include "proto/grpc_status.h"

namespace facet {
namespace {

constexpr int64_t kListTimeoutMs = 5'000;

std::shared_ptr<grpc::ChannelCredentials> CredentialsOf(const ClientOptions& options) {
  if (options.tls_ca.empty()) return grpc::InsecureChannelCredentials();
  // A file that vanished since the flag was checked is an empty one, which trusts nobody.
  return grpc::SslCredentials({.pem_root_certs = ReadFile(options.tls_ca).value_or("none")});
}

std::unique_ptr<v1::InferenceService::Stub> MakeStub(const ClientOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 << 20);
  // Connections are not shared between clients, nor is their waiting after a refusal.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return v1::InferenceService::NewStub(
      grpc::CreateCustomChannel(options.address, CredentialsOf(options), arguments));
}

}  // namespace

struct Client::Connection {
  std::unique_ptr<v1::InferenceService::Stub> stub;
  absl::Mutex mutex;
  grpc::ClientContext* running ABSL_GUARDED_BY(mutex) = nullptr;

  // What Cancel cancels while it lives.
  class Call {
   public:
    Call(Connection& connection, const std::string& api_key) : connection_(connection) {
      if (!api_key.empty()) context.AddMetadata("authorization", "Bearer " + api_key);
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
Status Explain(const grpc::Status& status, const ClientOptions& options) {
  if (status.ok()) return absl::OkStatus();
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE && status.error_details().empty()) {
    if (!options.tls_ca.empty()) {
      return Unavailable("no router answers at ", options.address,
                         " over TLS: ", status.error_message());
    }
    return Unavailable("no router answers at ", options.address,
                       "; start one with `facet up`, or name another with --address (one that "
                       "serves TLS needs --tls-ca)");
  }
  if (status.error_code() == grpc::StatusCode::UNAUTHENTICATED) {
    return Annotate(FromGrpcStatus(status), "the router wants a tenant's key in FACET_API_KEY");
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

void ClientOptions::AddIdentityTo(CLI::App& command) {
  const auto printable = [](const std::string& key) {
    const bool all =
        std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c <= '~'; });
    return all ? std::string() : std::string("a key has no spaces and no line breaks");
  };
  // In the environment other users of the machine do not see it.
  command.add_option("--api-key", api_key, "A tenant's key; better in the environment")
      ->envname("FACET_API_KEY")
      ->check(CLI::Validator(printable, ""));
  command.add_option("--tls-ca", tls_ca, "PEM file of the CA of a router that serves TLS")
      ->envname("FACET_TLS_CA")
      ->check(CLI::ExistingFile);
}

Client::Client(const ClientOptions& options)
    : options_(options), connection_(std::make_unique<Connection>()) {
  connection_->stub = MakeStub(options_);
}

Client::~Client() = default;

Status Client::Chat(const v1::ChatRequest& request,
                    const std::function<void(const v1::ChatResponse&)>& on_event) {
  Connection::Call call(*connection_, options_.api_key);
  const auto reader = connection_->stub->Chat(&call.context, request);
  return Explain(ReadAll<v1::ChatResponse>(*reader, on_event), options_);
}

Status Client::Generate(const v1::GenerateRequest& request,
                        const std::function<void(const v1::GenerateResponse&)>& on_event) {
  Connection::Call call(*connection_, options_.api_key);
  const auto reader = connection_->stub->Generate(&call.context, request);
  return Explain(ReadAll<v1::GenerateResponse>(*reader, on_event), options_);
}

StatusOr<v1::ListModelsResponse> Client::ListModels() {
  Connection::Call call(*connection_, options_.api_key);
  call.SetTimeout(kListTimeoutMs);
  v1::ListModelsResponse response;
  FACET_RETURN_IF_ERROR(
      Explain(connection_->stub->ListModels(&call.context, {}, &response), options_));
  return response;
}

StatusOr<v1::GetStatusResponse> Client::GetStatus(int64_t timeout_ms) {
  Connection::Call call(*connection_, options_.api_key);
  call.SetTimeout(timeout_ms);
  v1::GetStatusResponse response;
  FACET_RETURN_IF_ERROR(
      Explain(connection_->stub->GetStatus(&call.context, {}, &response), options_));
  return response;
}

bool Client::Cancel() {
  absl::MutexLock lock(&connection_->mutex);
  if (connection_->running == nullptr) return false;
  connection_->running->TryCancel();
  return true;
}

}  // namespace facet
