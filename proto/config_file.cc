#include "proto/config_file.h"

#include <arpa/inet.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "proto/yaml_reader.h"

namespace facet {
namespace {

constexpr NumberBound kBounds[] = {
    {"facet.v1.RouterConfig.queue_requests_max", 0, 1'000'000},
    {"facet.v1.RouterConfig.queue_wait_ms_max", 0, 86'400'000},
    {"facet.v1.RouterConfig.deadline_ms_default", 0, 86'400'000},
    {"facet.v1.RouterConfig.message_bytes_max", 0, 64 << 20},
    {"facet.v1.RouterConfig.relay_threads", 0, 64},
    {"facet.v1.RouterConfig.prepare_threads", 0, 64},
    {"facet.v1.RouterConfig.drain_ms_max", 0, 3'600'000},
    {"facet.v1.SloConfig.ttft_ms_max", 0, 3'600'000},
    {"facet.v1.SloConfig.tpot_ms_max", 0, 3'600'000},
    {"facet.v1.PoolConfig.threads", 0, 1024},
    {"facet.v1.PoolConfig.kv_bytes", 0, int64_t{1} << 45},
    {"facet.v1.PoolConfig.context_tokens_max", 0, 262'144},
    {"facet.v1.PoolConfig.running_max", 0, 4096},
    {"facet.v1.PoolConfig.step_tokens_max", 0, 65'536},
    {"facet.v1.PoolConfig.waiting_max", 0, 65'536},
    {"facet.v1.PoolConfig.price_usd_per_hour", 0, 100'000},
    {"facet.v1.PoolConfig.drain_ms_max", 0, 3'600'000},
    {"facet.v1.PoolConfig.peak_flops", 0, 1'000'000'000'000'000'000},
    {"facet.v1.PoolConfig.peak_hbm_bytes_per_second", 0, 10'000'000'000'000'000},
    {"facet.v1.StepModelConfig.base_ns", 0, 1'000'000'000'000},
    {"facet.v1.StepModelConfig.prefill_token_ns", 0, 1'000'000'000'000},
    {"facet.v1.StepModelConfig.prefill_token_context_ns", 0, 1'000'000'000'000},
    {"facet.v1.StepModelConfig.decode_row_ns", 0, 1'000'000'000'000},
    {"facet.v1.StepModelConfig.decode_context_ns", 0, 1'000'000'000'000},
    {"facet.v1.ExpertGroupConfig.ranks", 0, 8},
    {"facet.v1.ExpertGroupConfig.step_ms_max", 0, 3'600'000},
};

// host:port with a port from 0 to 65535; a host may be an [IPv6] address.
bool IsAddress(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0 || text.size() - colon - 1 > 5) return false;
  const std::string_view port = text.substr(colon + 1);
  if (port.empty() || port.find_first_not_of("0123456789") != port.npos) return false;
  return std::stoi(std::string(port)) <= 65535;
}

// 127.0.0.0/8, ::1 or localhost.
bool IsLoopback(const std::string& address) {
  const std::string host = address.substr(0, address.rfind(':'));
  in_addr ipv4{};
  if (inet_pton(AF_INET, host.c_str(), &ipv4) == 1) return ntohl(ipv4.s_addr) >> 24 == 127;
  return host == "localhost" || host == "[::1]";
}

Status CheckAddress(std::string_view field, const std::string& value, bool may_be_off) {
  if (IsAddress(value) || (may_be_off && value == "off")) return absl::OkStatus();
  return InvalidArgument(field, " is \"", value, "\"; it must be host:port",
                         may_be_off ? " or off" : "");
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
  return InvalidArgument(field, " is \"", value, "\"; it must be cpu, cuda or cuda:N");
}

// A device by the one name that later readers know.
std::string DeviceOrDefault(const std::string& value, const std::string& fallback) {
  return value.empty() ? fallback : value == "cuda" ? "cuda:0" : value;
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
  router.set_name(OrDefault<std::string>(router.name(), "router"));
  for (v1::ModelConfig& model : *config.mutable_models()) {
    v1::SloConfig& slo = *model.mutable_slo();
    slo.set_ttft_ms_max(OrDefault<int64_t>(slo.ttft_ms_max(), 2'000));
    slo.set_tpot_ms_max(OrDefault<int64_t>(slo.tpot_ms_max(), 100));
  }
  for (v1::PoolConfig& pool : *config.mutable_pools()) {
    pool.set_device(DeviceOrDefault(pool.device(), "cpu"));
    pool.set_dtype(OrDefault<std::string>(pool.dtype(), "bf16"));
    pool.set_kv_bytes(OrDefault<int64_t>(pool.kv_bytes(), 256 << 20));
    pool.set_running_max(OrDefault(pool.running_max(), 64));
    pool.set_step_tokens_max(OrDefault(pool.step_tokens_max(), 512));
    pool.set_waiting_max(OrDefault(pool.waiting_max(), 16));
    pool.set_drain_ms_max(OrDefault<int64_t>(pool.drain_ms_max(), 30'000));
    for (v1::WorkerEndpoint& worker : *pool.mutable_workers()) {
      worker.set_metrics_address(OrDefault<std::string>(worker.metrics_address(), "off"));
      worker.set_device(DeviceOrDefault(worker.device(), pool.device()));
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

// A name that may be part of a file's.
Status CheckFileName(std::string_view field, const std::string& value) {
  FACET_RETURN_IF_ERROR(CheckName(field, value));
  if (value.find('/') == std::string::npos) return absl::OkStatus();
  return InvalidArgument(field, " is \"", value, "\"; it must not hold a /");
}

Status CheckRouter(const v1::RouterConfig& router) {
  FACET_RETURN_IF_ERROR(CheckFileName("router.name", router.name()));
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
    FACET_RETURN_IF_ERROR(CheckDevice(worker_path + ".device", worker.device()));
    if ((worker.device() == "cpu") != (pool.device() == "cpu")) {
      return InvalidArgument(worker_path, ".device is ", worker.device(),
                             " in a pool whose device is ", pool.device(),
                             "; its workers must be of one kind");
    }
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

// TLS's files, and that nothing goes beyond loopback in plain text unless it may.
Status CheckNetwork(const v1::ClusterConfig& config) {
  const auto check = [](std::string_view field, const std::string& path) {
    return path.empty() ? InvalidArgument(field, " is missing") : absl::OkStatus();
  };
  if (config.has_worker_tls()) {
    const v1::WorkerTls& tls = config.worker_tls();
    FACET_RETURN_IF_ERROR(check("worker_tls.ca_file", tls.ca_file()));
    FACET_RETURN_IF_ERROR(check("worker_tls.cert_file", tls.cert_file()));
    FACET_RETURN_IF_ERROR(check("worker_tls.key_file", tls.key_file()));
  }
  const v1::RouterConfig& router = config.router();
  if (router.has_tls()) {
    FACET_RETURN_IF_ERROR(check("router.tls.cert_file", router.tls().cert_file()));
    FACET_RETURN_IF_ERROR(check("router.tls.key_file", router.tls().key_file()));
    const std::string& http = router.http_address();
    if (http != "off" && !IsLoopback(http) && !config.insecure_network()) {
      return InvalidArgument(
          "router.http_address is ", http,
          ", where HTTP is in plain text, and router.tls is set; put it on loopback behind a proxy "
          "that ends TLS, or set insecure_network: true");
    }
  }
  for (int i = 0; i < config.pools_size(); ++i) {
    for (int j = 0; j < config.pools(i).workers_size(); ++j) {
      FACET_RETURN_IF_ERROR(
          CheckWorkerAddress(config, StrCat("pools[", i, "].workers[", j, "].grpc_address"),
                             config.pools(i).workers(j).grpc_address()));
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
  return CheckNetwork(config);
}

// Paths in the file are relative to it.
void ResolvePaths(std::string_view directory, v1::ClusterConfig& config) {
  const auto resolve = [directory](std::string* path) {
    if (!path->empty()) *path = (std::filesystem::path(directory) / *path).string();
  };
  for (v1::ModelConfig& model : *config.mutable_models()) resolve(model.mutable_directory());
  for (v1::PoolConfig& pool : *config.mutable_pools()) {
    if (pool.has_expert_group()) resolve(pool.mutable_expert_group()->mutable_key_file());
  }
  resolve(config.mutable_tenants_file());
  resolve(config.mutable_ledger_directory());
  resolve(config.mutable_prices_file());
  if (config.has_worker_tls()) {
    v1::WorkerTls& tls = *config.mutable_worker_tls();
    for (std::string* path :
         {tls.mutable_ca_file(), tls.mutable_cert_file(), tls.mutable_key_file()}) {
      resolve(path);
    }
  }
  if (config.router().has_tls()) {
    v1::ServerTls& tls = *config.mutable_router()->mutable_tls();
    resolve(tls.mutable_cert_file());
    resolve(tls.mutable_key_file());
  }
}

}  // namespace

Status CheckWorkerAddress(const v1::ClusterConfig& config,
                          std::string_view field,
                          const std::string& address) {
  if (IsLoopback(address) || config.has_worker_tls() || config.insecure_network()) {
    return absl::OkStatus();
  }
  return InvalidArgument(field, " is ", address,
                         ", which is beyond loopback, where router and workers need TLS; set "
                         "worker_tls, or insecure_network: true if the network is private");
}

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
  FACET_RETURN_IF_ERROR(ReadYaml(yaml, file_name, kBounds, config).status());
  FillDefaults(config);
  if (const Status status = CheckConfig(config); !status.ok()) return Annotate(status, file_name);
  ResolvePaths(directory, config);
  return config;
}

}  // namespace facet
