// Speed of every kernel family beside the ceilings of the same device in the same run.
//
//   kernel_bench [--only GROUP]... [--json FILE] [--device N] [--kernels exact|fast]
//                [--cublas-lt FILE] [--no-graphs] [--check]
//
// Groups: ceilings (which every run measures anyway), linear, decode, prefill, moe, sampling.
// Status: 0 if all outputs were finite, 1 if not, 2 for a wrong argument, 3 if no device can be
// used. A figure below its bar is no error: the table says so. --check runs everything on small
// shapes and claims no times.
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/bench/kernel_bench/bench.h"

namespace facet::bench {
namespace {

constexpr int kExitNotFinite = 1;
constexpr int kExitUsage = 2;
constexpr int kExitNoDevice = 3;

struct Group {
  std::string_view name;
  void (*run)(Bench& bench);
};

constexpr Group kGroups[] = {{"ceilings", [](Bench&) {}},
                             {"linear", RunLinearCases},
                             {"decode", RunDecodeAttentionCases},
                             {"prefill", RunPrefillAttentionCases},
                             {"moe", RunMoeCases},
                             {"sampling", RunSamplingCases}};

struct Arguments {
  BenchOptions bench;
  std::vector<const Group*> groups;
  std::string json_path;
};

// False if an argument is not understood.
bool Parse(const std::vector<std::string_view>& words, Arguments& arguments) {
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--check") {
      arguments.bench.check = true;
      continue;
    }
    if (words[i] == "--no-graphs") {
      arguments.bench.graphs = false;
      continue;
    }
    if (i + 1 == words.size()) return false;
    const std::string_view option = words[i];
    const std::string_view value = words[++i];
    if (option == "--json") {
      arguments.json_path = value;
    } else if (option == "--cublas-lt") {
      arguments.bench.cublas_lt = value;
    } else if (option == "--kernels") {
      if (value != "exact" && value != "fast") return false;
      arguments.bench.fast = value == "fast";
    } else if (option == "--device") {
      const char* end = value.data() + value.size();
      const auto parsed = std::from_chars(value.data(), end, arguments.bench.device);
      if (parsed.ec != std::errc() || parsed.ptr != end) return false;
    } else if (option == "--only") {
      const size_t before = arguments.groups.size();
      for (const Group& group : kGroups) {
        if (group.name == value) arguments.groups.push_back(&group);
      }
      if (arguments.groups.size() == before) return false;
    } else {
      return false;
    }
  }
  if (arguments.groups.empty()) {
    for (const Group& group : kGroups) arguments.groups.push_back(&group);
  }
  return true;
}

int Run(const Arguments& arguments) {
  kernels::CudaDeviceInfo info;
  const std::string problem = kernels::CudaBackend::Probe(arguments.bench.device, info);
  if (!problem.empty()) {
    std::fprintf(stderr, "kernel_bench: %s\n", problem.c_str());
    return kExitNoDevice;
  }
  // A check has no ceilings.
  std::shared_ptr<kernels::CublasLt> library;
  std::string why;
  if (arguments.bench.fast || !arguments.bench.check) {
    library = kernels::CublasLt::Open(arguments.bench.cublas_lt, why);
  }
  if (arguments.bench.fast && library == nullptr) {
    std::fprintf(stderr, "kernel_bench: kernels is fast, which needs cuBLASLt: %s\n", why.c_str());
    return kExitUsage;
  }
  std::FILE* json = nullptr;
  if (!arguments.json_path.empty()) {
    json = std::fopen(arguments.json_path.c_str(), "a");
    if (json == nullptr) {
      std::fprintf(stderr, "kernel_bench: %s cannot be written: %s\n", arguments.json_path.c_str(),
                   std::strerror(errno));
      return kExitUsage;
    }
  }
  std::printf(
      "device   %s, compute capability %d.%d, %d SMs, %.1f GB, %.1f GB free%s\n", info.name.c_str(),
      info.compute_capability / 10, info.compute_capability % 10, info.num_sms,
      static_cast<double>(info.memory_bytes) / 1e9, static_cast<double>(info.free_bytes) / 1e9,
      arguments.bench.check ? "; a check on small shapes: no time below means anything" : "");
  int num_failed = 0;
  {
    Bench bench(arguments.bench, library, json);
    bench.MeasureCeilings();
    for (const Group* group : arguments.groups) group->run(bench);
    num_failed = bench.num_failed();
    std::printf("%d cases, %d with outputs that are not finite\n", bench.num_cases(), num_failed);
  }
  if (json != nullptr) std::fclose(json);
  return num_failed == 0 ? 0 : kExitNotFinite;
}

}  // namespace
}  // namespace facet::bench

int main(int argc, char** argv) {
  facet::bench::Arguments arguments;
  if (!facet::bench::Parse({argv + 1, argv + argc}, arguments)) {
    std::fprintf(
        stderr,
        "usage: kernel_bench [--only ceilings|linear|decode|prefill|moe|sampling]... [--json FILE] "
        "[--device N] [--kernels exact|fast] [--cublas-lt FILE] [--no-graphs] [--check]\n");
    return facet::bench::kExitUsage;
  }
  return facet::bench::Run(arguments);
}
