// TLS for gRPC from PEM files. The files are checked here, so that what is wrong with them is said
// at start and not found out call by call, and then watched: connections made more than ten seconds
// after a renewal use the new certificate.
#pragma once

#include <memory>
#include <string>

#include "base/status.h"
#include "facet/v1/config.pb.h"

namespace grpc {
class ChannelCredentials;
class ServerCredentials;
}  // namespace grpc

namespace facet {

// What a worker listens with: clients must present a certificate of worker_tls.ca_file. Without
// worker_tls plain text. INVALID_ARGUMENT or NOT_FOUND names the field and the file.
StatusOr<std::shared_ptr<grpc::ServerCredentials>> WorkerServerCredentials(
    const v1::ClusterConfig& config);

// What a router dials such workers with. The worker's certificate must name the host that is
// dialled; where server_name stands in for that, the channel says so
// (GRPC_SSL_TARGET_NAME_OVERRIDE_ARG).
StatusOr<std::shared_ptr<grpc::ChannelCredentials>> WorkerChannelCredentials(
    const v1::WorkerTls& files);

// What the router's clients meet: router.tls, or plain text.
StatusOr<std::shared_ptr<grpc::ServerCredentials>> RouterServerCredentials(
    const v1::RouterConfig& router);

// When the first certificate of the file expires, in Unix time. Errors name the file.
StatusOr<int64_t> CertificateExpiry(const std::string& path);

// What asks a server that may have TLS after its health: shows the certificate of files, if there
// are any, and takes whatever the server shows, because nothing but its health is told.
std::shared_ptr<grpc::ChannelCredentials> HealthChannelCredentials(const v1::WorkerTls* files);

}  // namespace facet
