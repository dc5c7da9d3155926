#include "proto/grpc_health.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include "absl/time/clock.h"

namespace facet {
namespace {

// HealthCheckResponse with status = SERVING (field 1, varint 1). Debian's gRPC ships the service
// and not its messages; the request for the service "" is empty.
constexpr char kServing[] = "\x08\x01";

std::string BytesOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!buffer.Dump(&slices).ok()) return bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

}  // namespace

Status CheckServing(const std::string& address,
                    const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                    absl::Duration timeout) {
  grpc::GenericStub stub(grpc::CreateChannel(address, credentials));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  grpc::CompletionQueue queue;
  const grpc::Slice nothing;
  const grpc::ByteBuffer request(&nothing, 1);
  const auto call =
      stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  grpc::ByteBuffer response;
  grpc::Status status;
  void* tag = nullptr;
  bool ok = false;
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  queue.Next(&tag, &ok);
  if (!status.ok()) return Unavailable(address, " does not answer: ", status.error_message());
  if (BytesOf(response) == kServing) return absl::OkStatus();
  return Unavailable(address, " does not serve yet, or no longer");
}

}  // namespace facet
