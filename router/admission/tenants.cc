#include "router/admission/tenants.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "proto/grpc_status.h"
#include "proto/tenants_file.h"

namespace facet::router {
namespace {

constexpr char kOnlyTenant[] = "default";

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

}  // namespace

KeyTable::KeyTable(const v1::TenantsFile& file) {
  for (const v1::Tenant& tenant : file.tenants()) {
    for (const std::string& hash : tenant.keys()) keys_.push_back({hash, tenant.name()});
  }
}

const std::string* KeyTable::Find(std::string_view key) const {
  const std::string wanted = KeyHash(key);
  const std::string* tenant = nullptr;
  for (const Key& candidate : keys_) {
    FACET_CHECK(candidate.hash.size() == wanted.size());
    // No way out of the loop at a match: all candidates cost the same.
    if (CRYPTO_memcmp(candidate.hash.data(), wanted.data(), wanted.size()) == 0) {
      tenant = &candidate.tenant;
    }
  }
  return tenant;
}

StatusOr<std::unique_ptr<TenantDirectory>> TenantDirectory::Open(const std::string& path) {
  std::unique_ptr<TenantDirectory> directory(new TenantDirectory(path));
  FACET_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  FACET_ASSIGN_OR_RETURN(auto keys, directory->Read(text));
  {
    absl::MutexLock lock(&directory->mutex_);
    directory->keys_ = std::move(keys);
  }
  directory->follower_ = std::make_unique<FileFollower>(
      path, text, [it = directory.get()](const auto& changed) { it->OnChange(changed); });
  return directory;
}

StatusOr<std::string> TenantDirectory::TenantOf(std::string_view key) const {
  if (path_.empty()) return kOnlyTenant;
  std::shared_ptr<const KeyTable> keys;
  {
    absl::MutexLock lock(&mutex_);
    keys = keys_;
  }
  const std::string* tenant = key.empty() ? nullptr : keys->Find(key);
  if (tenant != nullptr) return *tenant;
  const char* message = key.empty() ? "an API key is needed: send it as Authorization: Bearer KEY"
                                    : "the API key is not valid here";
  return WithReason(absl::UnauthenticatedError(message), "INVALID_API_KEY");
}

void TenantDirectory::OnChange(const StatusOr<std::string>& text) {
  auto keys = text.ok() ? Read(*text) : text.status();
  if (!keys.ok()) {
    Log(kWarning, "tenants file refused, the keys stay as they were",
        {{"cause", MessageOf(keys.status())}});
    return;
  }
  Log(kInfo, "tenants file read again", {{"keys", (*keys)->size()}});
  absl::MutexLock lock(&mutex_);
  keys_ = std::move(*keys);
}

StatusOr<std::shared_ptr<const KeyTable>> TenantDirectory::Read(const std::string& text) const {
  FACET_ASSIGN_OR_RETURN(const v1::TenantsFile file, ParseTenants(text, path_));
  return std::make_shared<const KeyTable>(file);
}

std::string_view ApiKeyOf(std::string_view authorization, std::string_view x_api_key) {
  constexpr std::string_view kScheme = "bearer ";
  bool bearer = authorization.size() > kScheme.size();
  for (size_t i = 0; bearer && i < kScheme.size(); ++i) {
    bearer = Lower(authorization[i]) == kScheme[i];
  }
  if (!bearer) return x_api_key;
  authorization.remove_prefix(
      std::min(authorization.find_first_not_of(' ', kScheme.size()), authorization.size()));
  return authorization;
}

}  // namespace facet::router
