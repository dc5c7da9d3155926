// The connection to one worker: Describe, and the Session stream.
//
// WorkerLink is what the router's logic drives; tests put their own in its place. GrpcWorkerClient
// is the real one: gRPC callbacks check, hand on to the listener and return.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "facet/worker/v1/worker.pb.h"

namespace grpc {
class ChannelCredentials;
}

namespace facet::router {

// Hears what a worker says. Called on gRPC threads: implementations post and return.
class WorkerLinkListener {
 public:
  virtual ~WorkerLinkListener() = default;

  virtual void OnDescribed(int worker, StatusOr<worker::v1::DescribeResponse> described) = 0;

  // Returns how many FrameDone calls the link shall expect for this message.
  virtual int OnMessage(int worker, uint64_t session, worker::v1::WorkerMessage message) = 0;

  virtual void OnSessionEnded(int worker, uint64_t session, const Status& status) = 0;
};

// All functions may be called from any thread and return at once.
class WorkerLink {
 public:
  virtual ~WorkerLink() = default;

  // Ends in OnDescribed.
  virtual void Describe() = 0;

  // Opens the stream and says Hello; ends in OnSessionEnded, except after CloseSession.
  virtual void OpenSession(uint64_t session) = 0;

  // Queues a message; dropped if `session` is not the open one.
  virtual void Send(uint64_t session, worker::v1::RouterMessage message) = 0;

  virtual void CloseSession(uint64_t session) = 0;

  // A message was dealt with: the link reads on while few are not.
  virtual void FrameDone(uint64_t session) = 0;
};

class GrpcWorkerClient final : public WorkerLink {
 public:
  struct Options {
    int worker = 0;  // Index, as the listener knows it.
    std::string grpc_address;
    std::string router_id;
    std::shared_ptr<grpc::ChannelCredentials> credentials;  // Null: plain text.
    std::string server_name;  // In the worker's certificate; empty: the host of grpc_address.
    int64_t describe_ms_max = 5000;
    int frames_unread_max = 16;  // Messages handed to the listener and not done.
  };

  // The listener must outlive the client.
  GrpcWorkerClient(Options options, WorkerLinkListener& listener);

  // Ends the session and waits for the last callback.
  ~GrpcWorkerClient() override;

  void Describe() override;
  void OpenSession(uint64_t session) override;
  void Send(uint64_t session, worker::v1::RouterMessage message) override;
  void CloseSession(uint64_t session) override;
  void FrameDone(uint64_t session) override;

 private:
  class Session;
  struct DescribeCall;
  struct Stub;

  // A worker that refuses us in the handshake closes the connection without a word: says what it
  // may have meant.
  Status ExplainClosing(const Status& status) const;
  void OnDescribeDone(DescribeCall* call, const Status& status);
  void OnSessionDone(Session* session, const Status& status);

  bool Quiet() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return calls_ == 0; }

  const Options options_;
  WorkerLinkListener& listener_;
  std::unique_ptr<Stub> stub_;
  absl::Mutex mutex_;
  Session* session_ ABSL_GUARDED_BY(mutex_) = nullptr;  // The open one; deleted when it is done.
  DescribeCall* describe_ ABSL_GUARDED_BY(mutex_) = nullptr;
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;  // Describe calls and sessions not done.
};

}  // namespace facet::router
