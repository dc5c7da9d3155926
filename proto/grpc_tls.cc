#include "proto/grpc_tls.h"

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>
#include <string_view>

#include "base/file.h"

namespace facet {
namespace {

namespace tls = grpc::experimental;

constexpr unsigned kWatchSeconds = 10;

template <typename T, void (*Free)(T*)>
struct Deleter {
  void operator()(T* object) const { Free(object); }
};

void FreeBio(BIO* bio) { BIO_free(bio); }

using Bio = std::unique_ptr<BIO, Deleter<BIO, FreeBio>>;
using Certificate = std::unique_ptr<X509, Deleter<X509, X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY, EVP_PKEY_free>>;

// One of the files, and the config's field that names it.
struct NamedFile {
  std::string_view field;
  const std::string& path;

  template <typename... Parts>
  Status Wrong(const Parts&... parts) const {
    return InvalidArgument(field, " ", path, " ", parts...);
  }

  StatusOr<Bio> Open(std::string& bytes) const {
    auto read = ReadFile(path);
    if (!read.ok()) return Annotate(read.status(), field);
    bytes = std::move(*read);
    return Bio(BIO_new_mem_buf(bytes.data(), static_cast<int>(bytes.size())));
  }
};

// The first certificate of the file.
StatusOr<Certificate> ReadCertificate(const NamedFile& file) {
  std::string bytes;
  FACET_ASSIGN_OR_RETURN(const Bio bio, file.Open(bytes));
  Certificate certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (certificate == nullptr) return file.Wrong("holds no certificate in PEM");
  return certificate;
}

// The same, which must be in force.
StatusOr<Certificate> ReadValidCertificate(const NamedFile& file) {
  FACET_ASSIGN_OR_RETURN(Certificate certificate, ReadCertificate(file));
  if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) < 0) {
    return file.Wrong("holds a certificate that has expired");
  }
  return certificate;
}

// A key with a passphrase is refused: nobody is there to type it.
int NoPassphrase(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*context*/) { return 0; }

Status CheckPair(const NamedFile& cert_file, const NamedFile& key_file) {
  FACET_ASSIGN_OR_RETURN(const Certificate certificate, ReadValidCertificate(cert_file));
  std::string bytes;
  FACET_ASSIGN_OR_RETURN(const Bio bio, key_file.Open(bytes));
  const PrivateKey key(PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassphrase, nullptr));
  const bool fits = key != nullptr && X509_check_private_key(certificate.get(), key.get()) == 1;
  ERR_clear_error();
  if (key == nullptr) return key_file.Wrong("holds no private key in PEM without a passphrase");
  if (!fits) return key_file.Wrong("is not the key of the certificate in ", cert_file.path);
  return absl::OkStatus();
}

Status CheckWorkerTls(const v1::WorkerTls& files) {
  FACET_RETURN_IF_ERROR(ReadValidCertificate({"worker_tls.ca_file", files.ca_file()}).status());
  return CheckPair({"worker_tls.cert_file", files.cert_file()},
                   {"worker_tls.key_file", files.key_file()});
}

// Both sides of a connection between router and worker.
std::shared_ptr<tls::CertificateProviderInterface> Watch(const v1::WorkerTls& files) {
  return std::make_shared<tls::FileWatcherCertificateProvider>(files.key_file(), files.cert_file(),
                                                               files.ca_file(), kWatchSeconds);
}

}  // namespace

StatusOr<std::shared_ptr<grpc::ServerCredentials>> WorkerServerCredentials(
    const v1::ClusterConfig& config) {
  if (!config.has_worker_tls()) return grpc::InsecureServerCredentials();
  FACET_RETURN_IF_ERROR(CheckWorkerTls(config.worker_tls()));
  tls::TlsServerCredentialsOptions options(Watch(config.worker_tls()));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  return tls::TlsServerCredentials(options);
}

StatusOr<std::shared_ptr<grpc::ChannelCredentials>> WorkerChannelCredentials(
    const v1::WorkerTls& files) {
  FACET_RETURN_IF_ERROR(CheckWorkerTls(files));
  tls::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(Watch(files));
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  return tls::TlsCredentials(options);
}

StatusOr<int64_t> CertificateExpiry(const std::string& path) {
  FACET_ASSIGN_OR_RETURN(const Certificate certificate, ReadCertificate({"certificate", path}));
  std::tm time{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate.get()), &time) != 1) {
    return InvalidArgument(path, " holds a certificate whose end is no time");
  }
  return timegm(&time);
}

std::shared_ptr<grpc::ChannelCredentials> HealthChannelCredentials(const v1::WorkerTls* files) {
  tls::TlsChannelCredentialsOptions options;
  options.set_verify_server_certs(false);
  options.set_check_call_host(false);
  options.set_certificate_verifier(std::make_shared<tls::NoOpCertificateVerifier>());
  if (files != nullptr) {
    options.set_certificate_provider(Watch(*files));
    options.watch_identity_key_cert_pairs();
  }
  return tls::TlsCredentials(options);
}

StatusOr<std::shared_ptr<grpc::ServerCredentials>> RouterServerCredentials(
    const v1::RouterConfig& router) {
  if (!router.has_tls()) return grpc::InsecureServerCredentials();
  const v1::ServerTls& files = router.tls();
  FACET_RETURN_IF_ERROR(CheckPair({"router.tls.cert_file", files.cert_file()},
                                  {"router.tls.key_file", files.key_file()}));
  tls::TlsServerCredentialsOptions options(std::make_shared<tls::FileWatcherCertificateProvider>(
      files.key_file(), files.cert_file(), kWatchSeconds));
  options.watch_identity_key_cert_pairs();
  return tls::TlsServerCredentials(options);
}

}  // namespace facet
