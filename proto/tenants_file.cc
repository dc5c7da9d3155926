#include "proto/tenants_file.h"

#include <set>

#include "base/file.h"
#include "proto/yaml_reader.h"

namespace facet {
namespace {

bool IsKeyHash(std::string_view text) {
  constexpr size_t kDigits = 64;
  return text.starts_with(kKeyHashPrefix) && text.size() == kKeyHashPrefix.size() + kDigits &&
         text.find_first_not_of("0123456789abcdef", kKeyHashPrefix.size()) == text.npos;
}

}  // namespace

std::string KeyHash(std::string_view key) { return StrCat(kKeyHashPrefix, Sha256Hex(key)); }

StatusOr<v1::TenantsFile> ParseTenants(const std::string& yaml, std::string_view file_name) {
  v1::TenantsFile file;
  FACET_ASSIGN_OR_RETURN(const FieldLines lines, ReadYaml(yaml, file_name, {}, file));
  const auto where = [&](const std::string& path) {
    const auto line = lines.find(path);
    return line == lines.end() ? std::string(file_name) : StrCat(file_name, ":", line->second);
  };
  if (file.tenants().empty()) {
    return InvalidArgument(file_name, ": tenants is empty; at least one is needed");
  }
  std::set<std::string> names;
  std::set<std::string> hashes;
  for (int i = 0; i < file.tenants_size(); ++i) {
    const v1::Tenant& tenant = file.tenants(i);
    const std::string path = StrCat("tenants[", i, "]");
    const std::string name_path = path + ".name";
    if (const Status status = CheckName(name_path, tenant.name()); !status.ok()) {
      return Annotate(status, where(name_path));
    }
    if (!names.insert(tenant.name()).second) {
      return InvalidArgument(where(name_path), ": ", name_path, " is \"", tenant.name(),
                             "\", which stands twice");
    }
    for (int j = 0; j < tenant.keys_size(); ++j) {
      const std::string key_path = StrCat(path, ".keys[", j, "]");
      if (!IsKeyHash(tenant.keys(j))) {
        return InvalidArgument(where(key_path), ": ", key_path, " is no hash; it must be ",
                               kKeyHashPrefix,
                               " and 64 lower-case hexadecimal digits, as `facet keys new` prints");
      }
      if (!hashes.insert(tenant.keys(j)).second) {
        return InvalidArgument(where(key_path), ": ", key_path,
                               " stands twice; a key belongs to one tenant");
      }
    }
  }
  return file;
}

}  // namespace facet
