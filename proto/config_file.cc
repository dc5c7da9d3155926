#include "proto/config_file.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <yaml-cpp/yaml.h>

#include <cmath>
#include <exception>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>

namespace facet {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Bounds of a number; numbers without a row here are ≥ 0 and as large as their type.
struct Bound {
  std::string_view field;  // Full name.
  int64_t min = 0;
  int64_t max = 0;
};

constexpr Bound kBounds[] = {
    {"facet.v1.RouterConfig.queue_requests_max", 0, 1'000'000},
    {"facet.v1.RouterConfig.queue_wait_ms_max", 0, 86'400'000},
    {"facet.v1.RouterConfig.deadline_ms_default", 0, 86'400'000},
    {"facet.v1.RouterConfig.message_bytes_max", 0, 64 << 20},
    {"facet.v1.RouterConfig.relay_threads", 0, 64},
    {"facet.v1.RouterConfig.prepare_threads", 0, 64},
    {"facet.v1.RouterConfig.drain_ms_max", 0, 3'600'000},
    {"facet.v1.PoolConfig.threads", 0, 1024},
    {"facet.v1.PoolConfig.kv_bytes", 0, int64_t{1} << 45},
    {"facet.v1.PoolConfig.context_tokens_max", 0, 262'144},
    {"facet.v1.PoolConfig.running_max", 0, 4096},
    {"facet.v1.PoolConfig.step_tokens_max", 0, 65'536},
    {"facet.v1.PoolConfig.waiting_max", 0, 65'536},
    {"facet.v1.PoolConfig.price_usd_per_hour", 0, 100'000},
    {"facet.v1.PoolConfig.drain_ms_max", 0, 3'600'000},
    {"facet.v1.ExpertGroupConfig.ranks", 0, 8},
    {"facet.v1.ExpertGroupConfig.step_ms_max", 0, 3'600'000},
};

// Turns YAML nodes into fields of a message, by their names.
class YamlReader {
 public:
  explicit YamlReader(std::string_view file_name) : file_name_(file_name) {}

  // path is how errors call the message: "" for the whole file, else "router" and so on.
  Status ReadMessage(const YAML::Node& node, const std::string& path, Message& message) const {
    if (!node.IsMap()) return Error(node, path, "must be a map of fields");
    std::set<std::string> seen;
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) return Error(entry.first, path, "has a key that is no name");
      const std::string& key = entry.first.Scalar();
      const std::string field_path = path.empty() ? key : StrCat(path, ".", key);
      const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(key);
      if (field == nullptr) {
        return Error(entry.first, field_path, "is not known; known here: " + FieldNames(message));
      }
      if (!seen.insert(key).second) return Error(entry.first, field_path, "stands twice");
      FACET_RETURN_IF_ERROR(ReadField(entry.second, field_path, *field, message));
    }
    return absl::OkStatus();
  }

 private:
  Status Error(const YAML::Node& node, std::string_view path, std::string_view what) const {
    return InvalidArgument(file_name_, ":", node.Mark().line + 1, ": ",
                           path.empty() ? "the file" : path, " ", what);
  }

  static std::string FieldNames(const Message& message) {
    std::string names;
    for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
      if (i > 0) names += ", ";
      names += message.GetDescriptor()->field(i)->name();
    }
    return names;
  }

  Status ReadField(const YAML::Node& node,
                   const std::string& path,
                   const FieldDescriptor& field,
                   Message& message) const {
    if (!field.is_repeated()) return ReadValue(node, path, field, message);
    if (!node.IsSequence()) return Error(node, path, "must be a list");
    for (size_t i = 0; i < node.size(); ++i) {
      FACET_RETURN_IF_ERROR(ReadValue(node[i], StrCat(path, "[", i, "]"), field, message));
    }
    return absl::OkStatus();
  }

  // Sets the field, or adds to it if it is repeated.
  Status ReadValue(const YAML::Node& node,
                   const std::string& path,
                   const FieldDescriptor& field,
                   Message& message) const {
    const Reflection& reflection = *message.GetReflection();
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      Message* inner = field.is_repeated() ? reflection.AddMessage(&message, &field)
                                           : reflection.MutableMessage(&message, &field);
      return ReadMessage(node, path, *inner);
    }
    if (!node.IsScalar()) return Error(node, path, "must be a single value");
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        reflection.SetString(&message, &field, node.Scalar());
        return absl::OkStatus();
      case FieldDescriptor::CPPTYPE_INT32:
      case FieldDescriptor::CPPTYPE_INT64:
        return ReadInteger(node, path, field, message);
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return ReadDouble(node, path, field, message);
      default:
        return Internal(path, " has a type that the reader does not know");
    }
  }

  static Bound BoundOf(const FieldDescriptor& field) {
    for (const Bound& bound : kBounds) {
      if (bound.field == field.full_name()) return bound;
    }
    const bool narrow = field.cpp_type() == FieldDescriptor::CPPTYPE_INT32;
    return {
        .field = {},
        .min = 0,
        .max = narrow ? std::numeric_limits<int32_t>::max() : std::numeric_limits<int64_t>::max()};
  }

  Status ReadInteger(const YAML::Node& node,
                     const std::string& path,
                     const FieldDescriptor& field,
                     Message& message) const {
    const Bound bound = BoundOf(field);
    int64_t value = 0;
    if (!YAML::convert<int64_t>::decode(node, value) || value < bound.min || value > bound.max) {
      return Error(node, path,
                   StrCat("is ", node.Scalar(), "; it must be an integer from ", bound.min, " to ",
                          bound.max));
    }
    const Reflection& reflection = *message.GetReflection();
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT32) {
      reflection.SetInt32(&message, &field, static_cast<int32_t>(value));
    } else {
      reflection.SetInt64(&message, &field, value);
    }
    return absl::OkStatus();
  }

  Status ReadDouble(const YAML::Node& node,
                    const std::string& path,
                    const FieldDescriptor& field,
                    Message& message) const {
    const Bound bound = BoundOf(field);
    double value = 0;
    if (!YAML::convert<double>::decode(node, value) || !std::isfinite(value) ||
        value < static_cast<double>(bound.min) || value > static_cast<double>(bound.max)) {
      return Error(node, path,
                   StrCat("is ", node.Scalar(), "; it must be a number from ", bound.min, " to ",
                          bound.max));
    }
    message.GetReflection()->SetDouble(&message, &field, value);
    return absl::OkStatus();
  }

  std::string_view file_name_;
};

// host:port with a port from 0 to 65535; a host may be an [IPv6] address.
bool IsAddress(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0 || text.size() - colon - 1 > 5) return false;
  const std::string_view port = text.substr(colon + 1);
  if (port.empty() || port.find_first_not_of("0123456789") != port.npos) return false;
  return std::stoi(std::string(port)) <= 65535;
}

Status CheckAddress(std::string_view field, const std::string& value, bool may_be_off) {
  if (IsAddress(value) || (may_be_off && value == "off")) return absl::OkStatus();
  return InvalidArgument(field, " is \"", value, "\"; it must be host:port",
                         may_be_off ? " or off" : "");
}

Status CheckName(std::string_view field, const std::string& value) {
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-";
  if (!value.empty() && value.size() <= 128 &&
      value.find_first_not_of(kAllowed) == std::string::npos) {
    return absl::OkStatus();
  }
  return InvalidArgument(field, " is \"", value,
                         "\"; it must be 1 to 128 letters, digits or any of . _ / -");
}

Status CheckChoice(std::string_view field,
                   const std::string& value,
                   std::initializer_list<std::string_view> choices) {
  std::string listed;
  for (const std::string_view choice : choices) {
    if (value == choice) return absl::OkStatus();
    if (!choice.empty()) listed += StrCat(listed.empty() ? "" : ", ", choice);
  }
  return InvalidArgument(field, " is \"", value, "\"; it must be one of ", listed);
}

Status CheckDevice(std::string_view field, const std::string& value) {
  constexpr std::string_view kCuda = "cuda:";
  if (value == "cpu") return absl::OkStatus();
  if (value.starts_with(kCuda) && value.size() > kCuda.size() && value.size() <= kCuda.size() + 3 &&
      value.find_first_not_of("0123456789", kCuda.size()) == std::string::npos) {
    return absl::OkStatus();
  }
  return InvalidArgument(field, " is \"", value, "\"; it must be cpu or cuda:N");
}

// What carries the blocks of ranks on such a device.
std::string CommOf(const std::string& device) { return device == "cpu" ? "gloo" : "nccl"; }

template <typename T>
T OrDefault(T value, T fallback) {
  return value == T{} ? fallback : value;
}

void FillDefaults(v1::ClusterConfig& config) {
  config.set_name(OrDefault<std::string>(config.name(), "facet"));
  v1::RouterConfig& router = *config.mutable_router();
  router.set_grpc_address(OrDefault<std::string>(router.grpc_address(), "127.0.0.1:7070"));
  router.set_http_address(OrDefault<std::string>(router.http_address(), "127.0.0.1:7080"));
  router.set_metrics_address(OrDefault<std::string>(router.metrics_address(), "127.0.0.1:7090"));
  router.set_queue_requests_max(OrDefault(router.queue_requests_max(), 1024));
  router.set_queue_wait_ms_max(OrDefault<int64_t>(router.queue_wait_ms_max(), 30'000));
  router.set_deadline_ms_default(OrDefault<int64_t>(router.deadline_ms_default(), 600'000));
  router.set_message_bytes_max(OrDefault(router.message_bytes_max(), 4 << 20));
  router.set_relay_threads(OrDefault(router.relay_threads(), 1));
  router.set_prepare_threads(OrDefault(router.prepare_threads(), 1));
  router.set_drain_ms_max(OrDefault<int64_t>(router.drain_ms_max(), 30'000));
  for (v1::PoolConfig& pool : *config.mutable_pools()) {
    pool.set_device(OrDefault<std::string>(pool.device(), "cpu"));
    pool.set_dtype(OrDefault<std::string>(pool.dtype(), "bf16"));
    pool.set_kv_bytes(OrDefault<int64_t>(pool.kv_bytes(), 256 << 20));
    pool.set_running_max(OrDefault(pool.running_max(), 64));
    pool.set_step_tokens_max(OrDefault(pool.step_tokens_max(), 512));
    pool.set_waiting_max(OrDefault(pool.waiting_max(), 16));
    pool.set_drain_ms_max(OrDefault<int64_t>(pool.drain_ms_max(), 30'000));
    for (v1::WorkerEndpoint& worker : *pool.mutable_workers()) {
      worker.set_metrics_address(OrDefault<std::string>(worker.metrics_address(), "off"));
      const std::string& address = worker.grpc_address();
      worker.set_data_host(
          OrDefault<std::string>(worker.data_host(), address.substr(0, address.rfind(':'))));
    }
    if (!pool.has_expert_group()) continue;
    v1::ExpertGroupConfig& group = *pool.mutable_expert_group();
    group.set_comm(OrDefault(group.comm(), CommOf(pool.device())));
    group.set_step_ms_max(OrDefault<int64_t>(group.step_ms_max(), 30'000));
  }
}

Status CheckModels(const v1::ClusterConfig& config, std::set<std::string>& names) {
  if (config.models_size() == 0) return InvalidArgument("models is empty; at least one is needed");
  for (int i = 0; i < config.models_size(); ++i) {
    const v1::ModelConfig& model = config.models(i);
    const std::string path = StrCat("models[", i, "]");
    FACET_RETURN_IF_ERROR(CheckName(path + ".name", model.name()));
    FACET_RETURN_IF_ERROR(
        CheckChoice(path + ".chat_template", model.chat_template(), {"", "small", "large"}));
    if (model.directory().empty()) return InvalidArgument(path, ".directory is missing");
    if (!names.insert(model.name()).second) {
      return InvalidArgument(path, ".name is \"", model.name(), "\", which stands twice");
    }
  }
  return absl::OkStatus();
}

Status CheckRouter(const v1::RouterConfig& router) {
  FACET_RETURN_IF_ERROR(CheckAddress("router.grpc_address", router.grpc_address(), false));
  FACET_RETURN_IF_ERROR(CheckAddress("router.http_address", router.http_address(), true));
  return CheckAddress("router.metrics_address", router.metrics_address(), true);
}

Status CheckExpertGroup(const v1::PoolConfig& pool,
                        const std::string& path,
                        std::set<std::string>& addresses) {
  const v1::ExpertGroupConfig& group = pool.expert_group();
  const int32_t ranks = group.ranks();
  if (ranks != 2 && ranks != 4 && ranks != 8) {
    return InvalidArgument(path, ".ranks is ", ranks, "; it must be 2, 4 or 8");
  }
  if (pool.workers_size() < ranks) {
    return InvalidArgument(path, ".ranks is ", ranks, "; the pool has ", pool.workers_size(),
                           " workers");
  }
  FACET_RETURN_IF_ERROR(CheckChoice(path + ".comm", group.comm(), {"gloo", "nccl"}));
  if (const std::string comm = CommOf(pool.device()); group.comm() != comm) {
    return InvalidArgument(path, ".comm is ", group.comm(), "; it must be ", comm,
                           " where the pool's device is ", pool.device());
  }
  const std::string& address = group.rendezvous_address();
  FACET_RETURN_IF_ERROR(CheckAddress(path + ".rendezvous_address", address, false));
  if (address.ends_with(":0")) {
    return InvalidArgument(path, ".rendezvous_address is ", address,
                           "; the other ranks must know the port");
  }
  if (!addresses.insert(address).second) {
    return InvalidArgument(path, ".rendezvous_address is ", address, ", which stands twice");
  }
  for (int i = 0; i < pool.workers_size(); ++i) {
    const std::string& host = pool.workers(i).data_host();
    if (host == "0.0.0.0" || host == "[::]") {
      return InvalidArgument(path, ": the other ranks cannot reach worker ", i, " at ", host,
                             "; set its data_host");
    }
  }
  return absl::OkStatus();
}

Status CheckPool(const v1::PoolConfig& pool,
                 const std::string& path,
                 const std::set<std::string>& model_names,
                 std::set<std::string>& addresses) {
  FACET_RETURN_IF_ERROR(CheckName(path + ".name", pool.name()));
  if (!model_names.contains(pool.model())) {
    return InvalidArgument(path, ".model is \"", pool.model(), "\", which is not among models");
  }
  FACET_RETURN_IF_ERROR(CheckDevice(path + ".device", pool.device()));
  FACET_RETURN_IF_ERROR(CheckChoice(path + ".dtype", pool.dtype(), {"bf16", "f32"}));
  FACET_RETURN_IF_ERROR(
      CheckChoice(path + ".cpu_tier", pool.cpu_tier(), {"", "scalar", "avx2", "avx512"}));
  FACET_RETURN_IF_ERROR(CheckChoice(path + ".kernels", pool.kernels(), {"", "exact", "fast"}));
  if (pool.workers_size() == 0) return InvalidArgument(path, ".workers is empty");
  if (pool.has_expert_group()) {
    FACET_RETURN_IF_ERROR(CheckExpertGroup(pool, path + ".expert_group", addresses));
  }
  for (int i = 0; i < pool.workers_size(); ++i) {
    const v1::WorkerEndpoint& worker = pool.workers(i);
    const std::string worker_path = StrCat(path, ".workers[", i, "]");
    const std::string& address = worker.grpc_address();
    FACET_RETURN_IF_ERROR(CheckAddress(worker_path + ".grpc_address", address, false));
    FACET_RETURN_IF_ERROR(
        CheckAddress(worker_path + ".metrics_address", worker.metrics_address(), true));
    if (!address.ends_with(":0") && !addresses.insert(address).second) {
      return InvalidArgument(worker_path, ".grpc_address is ", address, ", which stands twice");
    }
  }
  return absl::OkStatus();
}

Status CheckConfig(const v1::ClusterConfig& config) {
  std::set<std::string> model_names;
  FACET_RETURN_IF_ERROR(CheckName("name", config.name()));
  FACET_RETURN_IF_ERROR(CheckModels(config, model_names));
  FACET_RETURN_IF_ERROR(CheckRouter(config.router()));
  std::set<std::string> pool_names;
  std::set<std::string> addresses;
  for (int i = 0; i < config.pools_size(); ++i) {
    const std::string path = StrCat("pools[", i, "]");
    FACET_RETURN_IF_ERROR(CheckPool(config.pools(i), path, model_names, addresses));
    if (!pool_names.insert(config.pools(i).name()).second) {
      return InvalidArgument(path, ".name is \"", config.pools(i).name(), "\", which stands twice");
    }
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<v1::ClusterConfig> ReadClusterConfig(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return NotFound("config file ", path, " is not there or not a file");
  }
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) return Unavailable("config file ", path, " cannot be read");
  return ParseClusterConfig(text.str(), path, std::filesystem::path(path).parent_path().string());
}

StatusOr<v1::ClusterConfig> ParseClusterConfig(const std::string& yaml,
                                               std::string_view file_name,
                                               std::string_view directory) {
  v1::ClusterConfig config;
  try {
    const YAML::Node root = YAML::Load(yaml);
    if (root.IsNull()) return InvalidArgument(file_name, ": the file is empty");
    FACET_RETURN_IF_ERROR(YamlReader(file_name).ReadMessage(root, "", config));
  } catch (const YAML::Exception& error) {
    return InvalidArgument(file_name, ":", error.mark.line + 1, ": ", error.msg);
  } catch (const std::exception& error) {
    return InvalidArgument(file_name, ": ", error.what());
  }
  FillDefaults(config);
  if (const Status status = CheckConfig(config); !status.ok()) return Annotate(status, file_name);
  for (v1::ModelConfig& model : *config.mutable_models()) {
    model.set_directory((std::filesystem::path(directory) / model.directory()).string());
  }
  for (v1::PoolConfig& pool : *config.mutable_pools()) {
    if (!pool.has_expert_group() || pool.expert_group().key_file().empty()) continue;
    v1::ExpertGroupConfig& group = *pool.mutable_expert_group();
    group.set_key_file((std::filesystem::path(directory) / group.key_file()).string());
  }
  return config;
}

}  // namespace facet
