// Who a request belongs to, by the API key that came with it.
//
// The file of key hashes is read again each second, so keys come and go without a restart; requests
// under way keep the tenant that they were admitted with. A file that is broken leaves the keys as
// they were. Keys are never kept, logged or shown.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "base/file_follower.h"
#include "base/status.h"
#include "facet/v1/config.pb.h"

namespace facet::router {

// The keys of one reading of the file; immutable.
class KeyTable {
 public:
  explicit KeyTable(const v1::TenantsFile& file);

  // The tenant that has this key, or null. The key is compared with all that there are, by their
  // digests and in constant time, so the time tells nothing of how near it came.
  const std::string* Find(std::string_view key) const;

  size_t size() const { return keys_.size(); }

 private:
  struct Key {
    std::string hash;  // As KeyHash writes it.
    std::string tenant;
  };

  std::vector<Key> keys_;
};

class TenantDirectory {
 public:
  // Of a cluster without a file: every request is the tenant "default", and keys are ignored.
  TenantDirectory() = default;

  // Reads the file. An error is that of ParseTenants or ReadFile.
  static StatusOr<std::unique_ptr<TenantDirectory>> Open(const std::string& path);

  // From now on a thread calls Refresh each second, and nobody else does.
  void Follow() { follower_->Follow(); }

  // UNAUTHENTICATED (INVALID_API_KEY) if the key is missing or unknown. Any thread.
  StatusOr<std::string> TenantOf(std::string_view key) const;

  // Reads the file again.
  void Refresh() { follower_->Refresh(); }

 private:
  explicit TenantDirectory(std::string path) : path_(std::move(path)) {}

  StatusOr<std::shared_ptr<const KeyTable>> Read(const std::string& text) const;
  void OnChange(const StatusOr<std::string>& text);

  const std::string path_;  // Empty: there is no file.
  mutable absl::Mutex mutex_;
  std::shared_ptr<const KeyTable> keys_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<FileFollower> follower_;  // Last: its thread uses the others.
};

// The key of a request's headers, empty if there is none: `authorization: Bearer KEY`, as clients
// of OpenAI send it, or else `x-api-key: KEY`.
std::string_view ApiKeyOf(std::string_view authorization, std::string_view x_api_key);

}  // namespace facet::router
