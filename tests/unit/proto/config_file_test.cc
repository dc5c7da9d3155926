#include "proto/config_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace facet {
namespace {

using ::testing::HasSubstr;

constexpr char kGood[] = R"(
models:
  - name: gemma-demo
    directory: models/demo
router:
  relay_threads: 2
pools:
  - name: cpu
    model: gemma-demo
    price_usd_per_hour: 0.25
    workers:
      - grpc_address: 127.0.0.1:7101
)";

TEST(ConfigFileTest, FillsDefaultsAndResolvesDirectories) {
  const auto config = ParseClusterConfig(kGood, "c.yaml", "/etc/facet");
  ASSERT_TRUE(config.ok()) << MessageOf(config.status());
  EXPECT_EQ(config->name(), "facet");
  EXPECT_EQ(config->models(0).directory(), "/etc/facet/models/demo");
  EXPECT_EQ(config->router().relay_threads(), 2);
  EXPECT_EQ(config->router().grpc_address(), "127.0.0.1:7070");
  EXPECT_EQ(config->router().queue_wait_ms_max(), 30'000);
  EXPECT_EQ(config->pools(0).kv_bytes(), 256 << 20);
  EXPECT_EQ(config->pools(0).dtype(), "bf16");
  EXPECT_EQ(config->pools(0).price_usd_per_hour(), 0.25);
  EXPECT_EQ(config->pools(0).workers(0).metrics_address(), "off");
}

struct BadCase {
  std::string name;
  std::string yaml;
  std::string message;  // Part of it.
};

class ConfigFileBadTest : public ::testing::TestWithParam<BadCase> {};

TEST_P(ConfigFileBadTest, IsRefusedInOneSentence) {
  const auto config = ParseClusterConfig(GetParam().yaml, "c.yaml", "");
  ASSERT_FALSE(config.ok());
  EXPECT_THAT(MessageOf(config.status()), HasSubstr(GetParam().message));
  EXPECT_THAT(MessageOf(config.status()), HasSubstr("c.yaml"));
}

const std::string kModel = "models: [{name: m, directory: d}]\n";

const BadCase kBadCases[] = {
    {.name = "empty", .yaml = "", .message = "the file is empty"},
    {.name = "no_map", .yaml = "hello", .message = "c.yaml:1: the file must be a map"},
    {.name = "broken_yaml", .yaml = "models: [", .message = "c.yaml:1"},
    {.name = "unknown_key",
     .yaml = kModel + "router:\n  relay_thread: 2\n",
     .message = "c.yaml:3: router.relay_thread is not known; known here: grpc_address"},
    {.name = "key_twice", .yaml = kModel + "name: a\nname: b\n", .message = "name stands twice"},
    {.name = "fraction",
     .yaml = kModel + "router: {relay_threads: 0.5}",
     .message = "router.relay_threads is 0.5; it must be an integer from 0 to 64"},
    {.name = "negative",
     .yaml = kModel + "router: {queue_wait_ms_max: -1}",
     .message = "router.queue_wait_ms_max is -1; it must be an integer from 0 to"},
    {.name = "list_for_value",
     .yaml = kModel + "router: {grpc_address: [a]}",
     .message = "router.grpc_address must be a single value"},
    {.name = "value_for_list", .yaml = "models: x", .message = "models must be a list"},
    {.name = "not_a_number",
     .yaml = kModel + "pools: [{price_usd_per_hour: .nan}]",
     .message = "pools[0].price_usd_per_hour is .nan; it must be a number from 0 to 100000"},
    {.name = "no_model", .yaml = "name: x", .message = "models is empty"},
    {.name = "model_twice",
     .yaml = "models: [{name: m, directory: d}, {name: m, directory: e}]",
     .message = "models[1].name is \"m\", which stands twice"},
    {.name = "model_without_directory",
     .yaml = "models: [{name: m}]",
     .message = "models[0].directory is missing"},
    {.name = "unknown_template",
     .yaml = "models: [{name: m, directory: d, chat_template: huge}]",
     .message = "models[0].chat_template is \"huge\"; it must be one of small, large"},
    {.name = "bad_address",
     .yaml = kModel + "router: {grpc_address: localhost}",
     .message = "router.grpc_address is \"localhost\"; it must be host:port"},
    {.name = "pool_of_unknown_model",
     .yaml = kModel + "pools: [{name: p, model: x, workers: [{grpc_address: 'h:1'}]}]",
     .message = "pools[0].model is \"x\", which is not among models"},
    {.name = "pool_without_workers",
     .yaml = kModel + "pools: [{name: p, model: m}]",
     .message = "pools[0].workers is empty"},
    {.name = "bad_device",
     .yaml = kModel + "pools: [{name: p, model: m, device: tpu}]",
     .message = "pools[0].device is \"tpu\"; it must be cpu, cuda or cuda:N"},
    {.name = "workers_of_two_kinds",
     .yaml = kModel + "pools: [{name: p, model: m, device: 'cuda:0', "
                      "workers: [{grpc_address: 'h:1'}, {grpc_address: 'h:2', device: cpu}]}]",
     .message = "pools[0].workers[1].device is cpu in a pool whose device is cuda:0"},
    {.name = "bad_device_of_a_worker",
     .yaml = kModel + "pools: [{name: p, model: m, workers: [{grpc_address: 'h:1', device: gpu}]}]",
     .message = "pools[0].workers[0].device is \"gpu\"; it must be cpu, cuda or cuda:N"},
    {.name = "worker_address_twice",
     .yaml = kModel + "pools: [{name: p, model: m, workers: [{grpc_address: 'h:1'}, "
                      "{grpc_address: 'h:1'}]}]",
     .message = "pools[0].workers[1].grpc_address is h:1, which stands twice"},
    {.name = "ranks_that_slices_do_not_fit",
     .yaml = kModel + "pools: [{name: p, model: m, workers: [{grpc_address: 'h:1'}], "
                      "expert_group: {ranks: 3, rendezvous_address: 'h:2'}}]",
     .message = "pools[0].expert_group.ranks is 3; it must be 2, 4 or 8"},
    {.name = "more_ranks_than_workers",
     .yaml = kModel + "pools: [{name: p, model: m, workers: [{grpc_address: 'h:1'}], "
                      "expert_group: {ranks: 2, rendezvous_address: 'h:2'}}]",
     .message = "pools[0].expert_group.ranks is 2; the pool has 1 workers"},
    {.name = "rendezvous_that_nobody_finds",
     .yaml = kModel + "pools: [{name: p, model: m, workers: [{grpc_address: 'h:1'}, "
                      "{grpc_address: 'h:2'}], "
                      "expert_group: {ranks: 2, rendezvous_address: 'h:0'}}]",
     .message = "pools[0].expert_group.rendezvous_address is h:0; the other ranks must know"},
    {.name = "data_host_that_nobody_reaches",
     .yaml = kModel + "pools: [{name: p, model: m, workers: [{grpc_address: 'h:1'}, "
                      "{grpc_address: '0.0.0.0:2'}], "
                      "expert_group: {ranks: 2, rendezvous_address: 'h:3'}}]",
     .message = "the other ranks cannot reach worker 1 at 0.0.0.0; set its data_host"},
    {.name = "unknown_comm",
     .yaml = kModel + "pools: [{name: p, model: m, workers: [{grpc_address: 'h:1'}, "
                      "{grpc_address: 'h:2'}], "
                      "expert_group: {ranks: 2, comm: mpi, rendezvous_address: 'h:3'}}]",
     .message = "pools[0].expert_group.comm is \"mpi\"; it must be one of gloo, nccl"},
    {.name = "nccl_without_gpus",
     .yaml = kModel + "pools: [{name: p, model: m, workers: [{grpc_address: 'h:1'}, "
                      "{grpc_address: 'h:2'}], "
                      "expert_group: {ranks: 2, comm: nccl, rendezvous_address: 'h:3'}}]",
     .message =
         "pools[0].expert_group.comm is nccl; it must be gloo where the pool's device is cpu"},
    {.name = "gloo_between_gpus",
     .yaml = kModel + "pools: [{name: p, model: m, device: 'cuda:1', "
                      "workers: [{grpc_address: 'h:1'}, {grpc_address: 'h:2'}], "
                      "expert_group: {ranks: 2, comm: gloo, rendezvous_address: 'h:3'}}]",
     .message = "comm is gloo; it must be nccl where the pool's device is cuda:1"},
    {.name = "workers_beyond_loopback_in_plain_text",
     .yaml = kModel + "pools: [{name: p, model: m, workers: [{grpc_address: '127.0.0.1:1'}, "
                      "{grpc_address: '10.1.2.3:7170'}]}]",
     .message = "pools[0].workers[1].grpc_address is 10.1.2.3:7170, which is beyond loopback"},
    {.name = "a_name_that_looks_like_loopback",
     .yaml = kModel + "pools: [{name: p, model: m, workers: [{grpc_address: '127.0.0.1.nip:1'}]}]",
     .message = "is 127.0.0.1.nip:1, which is beyond loopback"},
    {.name = "worker_tls_without_a_file",
     .yaml = kModel + "worker_tls: {ca_file: ca.pem, cert_file: cert.pem}",
     .message = "worker_tls.key_file is missing"},
    {.name = "router_tls_without_a_file",
     .yaml = kModel + "router: {tls: {key_file: key.pem}}",
     .message = "router.tls.cert_file is missing"},
    {.name = "router_tls_beside_plain_http",
     .yaml = kModel + "router: {http_address: '0.0.0.0:80', tls: {cert_file: c, key_file: k}}",
     .message = "router.http_address is 0.0.0.0:80, where HTTP is in plain text"},
    {.name = "not_a_boolean",
     .yaml = kModel + "insecure_network: 1",
     .message = "c.yaml:2: insecure_network is 1; it must be true or false"},
};

INSTANTIATE_TEST_SUITE_P(All,
                         ConfigFileBadTest,
                         ::testing::ValuesIn(kBadCases),
                         [](const auto& row) { return row.param.name; });

TEST(ConfigFileTest, TheDeviceSaysWhatRanksTalkThrough) {
  for (const auto& [device, comm] : {std::pair("cpu", "gloo"), std::pair("cuda:0", "nccl")}) {
    const auto config =
        ParseClusterConfig(StrCat(kModel, "pools: [{name: p, model: m, device: '", device,
                                  "', workers: [{grpc_address: 'localhost:1'}, "
                                  "{grpc_address: 'localhost:2'}], expert_group: {ranks: 2, "
                                  "rendezvous_address: 'localhost:3'}}]"),
                           "c.yaml", "");
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->pools(0).expert_group().comm(), comm);
  }
}

TEST(ConfigFileTest, AWorkerHasItsOwnDeviceOrThePools) {
  const auto config = ParseClusterConfig(kModel +
                                             "pools: [{name: p, model: m, device: 'cuda:0', "
                                             "workers: [{grpc_address: 'localhost:1'}, "
                                             "{grpc_address: 'localhost:2', device: 'cuda:1'}]}]",
                                         "c.yaml", "/etc/facet");
  ASSERT_TRUE(config.ok()) << MessageOf(config.status());
  EXPECT_EQ(config->pools(0).workers(0).device(), "cuda:0");
  EXPECT_EQ(config->pools(0).workers(1).device(), "cuda:1");
}

TEST(ConfigFileTest, ADeviceWithoutANumberIsTheFirst) {
  const auto config = ParseClusterConfig(kModel +
                                             "pools: [{name: p, model: m, device: 'cuda:1', "
                                             "workers: [{grpc_address: 'localhost:1'}, "
                                             "{grpc_address: 'localhost:2', device: cuda}]}, "
                                             "{name: q, model: m, device: cuda, ple_on_host: true, "
                                             "workers: [{grpc_address: 'localhost:3'}]}]",
                                         "c.yaml", "/etc/facet");
  ASSERT_TRUE(config.ok()) << MessageOf(config.status());
  EXPECT_EQ(config->pools(0).workers(0).device(), "cuda:1");
  EXPECT_EQ(config->pools(0).workers(1).device(), "cuda:0");
  EXPECT_FALSE(config->pools(0).ple_on_host());
  EXPECT_EQ(config->pools(1).device(), "cuda:0");
  EXPECT_EQ(config->pools(1).workers(0).device(), "cuda:0");
  EXPECT_TRUE(config->pools(1).ple_on_host());
}

TEST(ConfigFileTest, WhereWorkersMayServe) {
  const std::string pool = "pools: [{name: p, model: m, workers: [{grpc_address: '";
  for (const char* address : {"127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1"}) {
    EXPECT_TRUE(ParseClusterConfig(kModel + pool + address + "'}]}]", "c.yaml", "").ok())
        << address;
  }
  for (const char* permission :
       {"insecure_network: true", "worker_tls: {ca_file: a, cert_file: b, key_file: c}"}) {
    const auto config =
        ParseClusterConfig(kModel + pool + "10.1.2.3:1'}]}]\n" + permission, "c.yaml", "");
    EXPECT_TRUE(config.ok()) << permission << ": " << MessageOf(config.status());
  }
}

TEST(ConfigFileTest, PathsAreRelativeToTheFile) {
  const auto config = ParseClusterConfig(
      kModel +
          "tenants_file: tenants.yaml\n"
          "worker_tls: {ca_file: tls/ca.pem, cert_file: tls/cert.pem, key_file: /run/key.pem}\n"
          "router: {tls: {cert_file: router.pem, key_file: router.key}}",
      "c.yaml", "/etc/facet");
  ASSERT_TRUE(config.ok()) << MessageOf(config.status());
  EXPECT_EQ(config->tenants_file(), "/etc/facet/tenants.yaml");
  EXPECT_EQ(config->worker_tls().ca_file(), "/etc/facet/tls/ca.pem");
  EXPECT_EQ(config->worker_tls().key_file(), "/run/key.pem");
  EXPECT_EQ(config->router().tls().cert_file(), "/etc/facet/router.pem");
}

TEST(ConfigFileTest, AMissingFileIsNamed) {
  const auto config = ReadClusterConfig("/nowhere/c.yaml");
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(MessageOf(config.status()), HasSubstr("/nowhere/c.yaml"));
}

}  // namespace
}  // namespace facet
