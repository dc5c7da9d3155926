#include "cli/keys_command.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <iostream>
#include <memory>

#include "cli/json_lines.h"
#include "proto/tenants_file.h"
#include "proto/yaml_reader.h"

namespace facet {
namespace {

// 256 random bits, marked so that people and scanners of secrets know what they see.
StatusOr<std::string> NewKey() {
  std::array<unsigned char, 32> bytes{};
  if (getentropy(bytes.data(), bytes.size()) != 0) {
    return Unavailable("the system gives no random bytes: ", std::strerror(errno));
  }
  constexpr char kDigits[] = "0123456789abcdef";
  std::string key = "fk_";
  for (const unsigned char byte : bytes) {
    key += kDigits[byte >> 4];
    key += kDigits[byte & 15];
  }
  return key;
}

}  // namespace

Status WriteNewKey(const std::string& tenant, std::ostream& out) {
  FACET_RETURN_IF_ERROR(CheckName("--tenant", tenant));
  FACET_ASSIGN_OR_RETURN(const std::string key, NewKey());
  out << "key, for the tenant alone, not shown again:\n  " << key
      << "\nline of the tenants file:\n  - {name: \"" << tenant << "\", keys: [\"" << KeyHash(key)
      << "\"]}\n";
  out.flush();
  return out ? absl::OkStatus() : Unavailable("cannot write to standard output");
}

void AddKeysCommand(CLI::App& app) {
  const auto tenant = std::make_shared<std::string>();
  CLI::App* keys = app.add_subcommand("keys", "API keys of tenants");
  keys->require_subcommand(1);
  CLI::App* command =
      keys->add_subcommand("new", "Draw a key and print it with its line of the tenants file");
  command->add_option("--tenant", *tenant, "Name of the tenant")->required();
  command->footer("Example: facet keys new --tenant acme");
  command->callback([tenant] { ExitOnError("keys new", WriteNewKey(*tenant, std::cout)); });
}

}  // namespace facet
