#include "router/routing/worker_client.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/client_callback.h>

#include <chrono>
#include <utility>

#include "facet/worker/v1/worker.grpc.pb.h"
#include "proto/grpc_status.h"

namespace facet::router {

using worker::v1::RouterMessage;
using worker::v1::WorkerMessage;
using worker::v1::WorkerService;

struct GrpcWorkerClient::Stub {
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<WorkerService::Stub> service;
};

struct GrpcWorkerClient::DescribeCall {
  grpc::ClientContext context;
  worker::v1::DescribeRequest request;
  worker::v1::DescribeResponse response;
};

// One stream. Writes one message at a time and keeps the rest. A hold keeps the reactor alive while
// others may start reads and writes; Close and a failed read let it go, and OnDone has it deleted.
class GrpcWorkerClient::Session final
    : public grpc::ClientBidiReactor<RouterMessage, WorkerMessage> {
 public:
  Session(GrpcWorkerClient& client, uint64_t id) : client_(client), id_(id) {}

  uint64_t id() const { return id_; }

  void Start(WorkerService::Stub& stub) {
    stub.async()->Session(&context_, this);
    AddHold();
    StartRead(&incoming_);
    RouterMessage hello;
    hello.mutable_hello()->set_router_id(client_.options_.router_id);
    Send(std::move(hello));
    StartCall();
  }

  void Send(RouterMessage message) {
    absl::MutexLock lock(&mutex_);
    if (released_) return;
    outgoing_.push_back(std::move(message));
    if (outgoing_.size() == 1) StartWrite(&outgoing_.front());
  }

  void Close() {
    absl::MutexLock lock(&mutex_);
    closed_by_us_ = true;
    context_.TryCancel();
    Release();
  }

  bool closed_by_us() {
    absl::MutexLock lock(&mutex_);
    return closed_by_us_;
  }

  void FrameDone() {
    absl::MutexLock lock(&mutex_);
    --unread_;
    ReadIfRoom();
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      absl::MutexLock lock(&mutex_);
      Release();
      return;
    }
    const int handed_on = client_.listener_.OnMessage(client_.options_.worker, id_,
                                                      std::exchange(incoming_, WorkerMessage()));
    absl::MutexLock lock(&mutex_);
    unread_ += handed_on;
    reading_ = false;
    ReadIfRoom();
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    outgoing_.pop_front();
    if (!ok) outgoing_.clear();  // The read side reports the end of the stream.
    if (!outgoing_.empty() && !released_) StartWrite(&outgoing_.front());
  }

  void OnDone(const grpc::Status& status) override {
    client_.OnSessionDone(this, FromGrpcStatus(status));  // Deletes this.
  }

 private:
  void ReadIfRoom() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (reading_ || released_ || unread_ >= client_.options_.frames_unread_max) return;
    reading_ = true;
    StartRead(&incoming_);
  }

  void Release() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!std::exchange(released_, true)) RemoveHold();
  }

  GrpcWorkerClient& client_;
  const uint64_t id_;
  grpc::ClientContext context_;
  WorkerMessage incoming_;  // Belongs to the read in flight.
  absl::Mutex mutex_;
  // The front is being written. Bounded by the worker's credits: a submit and a cancel for each.
  std::deque<RouterMessage> outgoing_ ABSL_GUARDED_BY(mutex_);
  int unread_ ABSL_GUARDED_BY(mutex_) = 0;
  bool reading_ ABSL_GUARDED_BY(mutex_) = true;
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_by_us_ ABSL_GUARDED_BY(mutex_) = false;
};

GrpcWorkerClient::GrpcWorkerClient(Options options, WorkerLinkListener& listener)
    : options_(std::move(options)), listener_(listener), stub_(std::make_unique<Stub>()) {
  constexpr int kBackoffMs = 200;
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(64 << 20);
  // The fleet retries with its own backoff; the channel's must not be slower.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kBackoffMs);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kBackoffMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kBackoffMs);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (!options_.server_name.empty()) {
    arguments.SetSslTargetNameOverride(options_.server_name);
  }
  const auto credentials =
      options_.credentials != nullptr ? options_.credentials : grpc::InsecureChannelCredentials();
  stub_->channel = grpc::CreateCustomChannel(options_.grpc_address, credentials, arguments);
  stub_->service = WorkerService::NewStub(stub_->channel);
}

GrpcWorkerClient::~GrpcWorkerClient() {
  absl::MutexLock lock(&mutex_);
  if (describe_ != nullptr) describe_->context.TryCancel();
  if (session_ != nullptr) session_->Close();
  mutex_.Await(absl::Condition(this, &GrpcWorkerClient::Quiet));
}

void GrpcWorkerClient::Describe() {
  auto* call = new DescribeCall;
  call->context.set_deadline(std::chrono::system_clock::now() +
                             std::chrono::milliseconds(options_.describe_ms_max));
  {
    absl::MutexLock lock(&mutex_);
    describe_ = call;
    ++calls_;
  }
  stub_->service->async()->Describe(
      &call->context, &call->request, &call->response,
      [this, call](const grpc::Status& status) { OnDescribeDone(call, FromGrpcStatus(status)); });
}

Status GrpcWorkerClient::ExplainClosing(const Status& status) const {
  if (!absl::IsUnavailable(status) || !MessageOf(status).ends_with("Socket closed")) return status;
  return Unavailable(
      MessageOf(status),
      options_.credentials == nullptr
          ? "; if this stays, the worker wants TLS and this router has no worker_tls"
          : "; if this stays, the worker does not accept worker_tls.cert_file: its log says why");
}

void GrpcWorkerClient::OnDescribeDone(DescribeCall* call, const Status& status) {
  if (status.ok()) {
    listener_.OnDescribed(options_.worker, std::move(call->response));
  } else {
    listener_.OnDescribed(options_.worker, ExplainClosing(status));
  }
  absl::MutexLock lock(&mutex_);
  if (describe_ == call) describe_ = nullptr;
  delete call;
  --calls_;
}

void GrpcWorkerClient::OpenSession(uint64_t session) {
  absl::MutexLock lock(&mutex_);
  if (session_ != nullptr) session_->Close();
  session_ = new Session(*this, session);
  ++calls_;
  session_->Start(*stub_->service);
}

void GrpcWorkerClient::Send(uint64_t session, RouterMessage message) {
  absl::MutexLock lock(&mutex_);
  if (session_ != nullptr && session_->id() == session) session_->Send(std::move(message));
}

void GrpcWorkerClient::CloseSession(uint64_t session) {
  absl::MutexLock lock(&mutex_);
  if (session_ == nullptr || session_->id() != session) return;
  session_->Close();
  session_ = nullptr;
}

void GrpcWorkerClient::FrameDone(uint64_t session) {
  absl::MutexLock lock(&mutex_);
  if (session_ != nullptr && session_->id() == session) session_->FrameDone();
}

void GrpcWorkerClient::OnSessionDone(Session* session, const Status& status) {
  const bool wanted = !session->closed_by_us();
  const uint64_t id = session->id();
  if (wanted) listener_.OnSessionEnded(options_.worker, id, status);
  absl::MutexLock lock(&mutex_);
  if (session_ == session) session_ = nullptr;
  // Before it is counted: its context holds the channel, and gRPC dies if one of its own threads
  // lets the last channel go.
  delete session;
  --calls_;
}

}  // namespace facet::router
