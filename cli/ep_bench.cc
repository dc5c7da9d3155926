#include "cli/ep_bench.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <set>
#include <thread>
#include <utility>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/reserved_port.h"
#include "cli/child_process.h"
#include "kernels/open_backend.h"
#include "worker/comm/gloo_communicator.h"
#include "worker/comm/local_communicator.h"
#include "worker/model/expert_exchange.h"
#include "worker/model/model_shape.h"

namespace facet {
namespace {

using kernels::ConstTensorView;
using kernels::DType;
using kernels::MoeDispatch;
using worker::Communicator;
using worker::ExpertExchange;
using worker::Gemma4Config;

constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr int kTokensMax = 1024;
constexpr int kLayersMax = 10'000;

const char* NameOf(MoeDispatch form) {
  return form == MoeDispatch::kAllToAll ? "all-to-all" : "all-gather";
}

Status CheckOptions(const EpBenchOptions& options) {
  if (options.ranks != 1 && options.ranks != 2 && options.ranks != 4 && options.ranks != 8) {
    return InvalidArgument("--ranks is ", options.ranks, "; it must be 1, 2, 4 or 8");
  }
  if (options.comm != "local" && options.comm != "gloo") {
    return InvalidArgument("--comm is ", options.comm, "; it must be local or gloo");
  }
  if (options.tokens < 1 || options.tokens > kTokensMax) {
    return InvalidArgument("--tokens is ", options.tokens, "; it must be from 1 to ", kTokensMax);
  }
  if (options.layers < 1 || options.layers > kLayersMax) {
    return InvalidArgument("--layers is ", options.layers, "; it must be from 1 to ", kLayersMax);
  }
  return absl::OkStatus();
}

// A layer's tokens of one rank.
struct Tokens {
  Tokens(const Gemma4Config& config, int64_t num_tokens, uint32_t seed)
      : hidden(num_tokens * config.hidden, kernels::ToBf16(0.5F)),
        weights(num_tokens * config.top_k_experts, 0.125F) {
    std::mt19937 random(seed);
    std::vector<int32_t> experts(config.num_experts);
    std::iota(experts.begin(), experts.end(), 0);
    for (int64_t t = 0; t < num_tokens; ++t) {
      std::shuffle(experts.begin(), experts.end(), random);
      ids.insert(ids.end(), experts.begin(), experts.begin() + config.top_k_experts);
    }
  }

  std::vector<kernels::Bf16> hidden;  // [num_tokens, hidden]
  std::vector<int32_t> ids;           // [num_tokens, top_k]
  std::vector<float> weights;         // [num_tokens, top_k]
};

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
  return values[values.size() / 2];
}

// One rank of the bench.
class BenchRank {
 public:
  BenchRank(const EpBenchOptions& options, int rank, Gemma4Config config)
      : options_(options),
        share_{rank, options.ranks},
        config_(std::move(config)),
        backend_(kernels::OpenBackend({.device = "cpu", .threads = 1}).backend),
        tokens_(config_, options.tokens, static_cast<uint32_t>(rank)) {}

  StatusOr<EpBenchReport> Run(Communicator& communicator) {
    EpBenchReport report;
    CountBytes(report);
    {
      ExpertExchange exchange = MakeExchange(std::nullopt);
      FACET_RETURN_IF_ERROR(exchange.SetCommunicator(&communicator, kPatience));
      report.chosen_form = NameOf(exchange.FormFor(options_.tokens));
    }
    for (const MoeDispatch form : {MoeDispatch::kAllToAll, MoeDispatch::kAllGather}) {
      ExpertExchange exchange = MakeExchange(form);
      FACET_RETURN_IF_ERROR(exchange.SetCommunicator(&communicator, kPatience));
      FACET_ASSIGN_OR_RETURN(EpBenchForm times, Time(exchange));
      times.form = NameOf(form);
      report.forms.push_back(std::move(times));
    }
    return report;
  }

 private:
  ExpertExchange MakeExchange(std::optional<MoeDispatch> form) {
    return ExpertExchange(config_, DType::kBf16, *backend_,
                          {.share = share_, .tokens_max = options_.tokens, .form = form});
  }

  StatusOr<EpBenchForm> Time(ExpertExchange& exchange) {
    const int64_t top_k = config_.top_k_experts;
    std::vector<double> dispatch_us;
    std::vector<double> combine_us;
    FACET_RETURN_IF_ERROR(exchange.BeginStep(options_.tokens, kPatience));
    for (int layer = 0; layer < options_.layers; ++layer) {
      const int64_t start_ns = Clock::Real().NowNs();
      FACET_RETURN_IF_ERROR(exchange.Dispatch(
          ConstTensorView(tokens_.hidden.data(), DType::kBf16, {options_.tokens, config_.hidden}),
          ConstTensorView(tokens_.ids.data(), DType::kI32, {options_.tokens, top_k}),
          ConstTensorView(tokens_.weights.data(), DType::kF32, {options_.tokens, top_k})));
      FACET_ASSIGN_OR_RETURN(const worker::ExpertRows rows, exchange.Receive());
      const int64_t received_ns = Clock::Real().NowNs();
      FACET_RETURN_IF_ERROR(exchange.Combine(rows).status());
      const int64_t end_ns = Clock::Real().NowNs();
      dispatch_us.push_back(static_cast<double>(received_ns - start_ns) / 1e3);
      combine_us.push_back(static_cast<double>(end_ns - received_ns) / 1e3);
    }
    return EpBenchForm{.dispatch_us = Median(dispatch_us), .combine_us = Median(combine_us)};
  }

  void CountBytes(EpBenchReport& report) const {
    const int64_t top_k = config_.top_k_experts;
    const int64_t hidden_bytes = config_.hidden * kernels::SizeOf(DType::kBf16);
    const int64_t slices = kernels::kExpertSlices / share_.num_ranks;
    const int64_t others = share_.num_ranks - 1;
    const kernels::BlockLayout block =
        kernels::MoeRowLayout(DType::kBf16, config_.hidden, top_k).Blocks(options_.tokens);
    report.dispatch_bytes = others * block.block_bytes();
    report.combine_bytes = others * options_.tokens * slices * hidden_bytes;
    for (int64_t t = 0; t < options_.tokens; ++t) {
      std::set<int64_t> ranks;
      std::set<int64_t> slices_elsewhere;
      for (int64_t j = 0; j < top_k; ++j) {
        const int64_t slice = kernels::SliceOf(tokens_.ids[t * top_k + j], config_.num_experts);
        if (slice / slices == share_.rank) continue;
        ranks.insert(slice / slices);
        slices_elsewhere.insert(slice);
      }
      const int64_t row_bytes =
          hidden_bytes + top_k * (kernels::SizeOf(DType::kI32) + kernels::SizeOf(DType::kF32));
      report.dispatch_bytes_min += std::ssize(ranks) * row_bytes;
      report.combine_bytes_min += std::ssize(slices_elsewhere) * hidden_bytes;
    }
  }

  const EpBenchOptions& options_;
  const worker::ExpertShare share_;
  const Gemma4Config config_;
  const std::unique_ptr<kernels::Backend> backend_;
  const Tokens tokens_;
};

StatusOr<Gemma4Config> BenchConfig() {
  FACET_ASSIGN_OR_RETURN(const worker::ModelShape shape, worker::PublishedShape("26b"));
  return worker::ParseGemma4Config(worker::ConfigJson(shape));
}

// Ranks' reports as one: their bytes together, the slowest rank's times.
EpBenchReport Merge(const std::vector<EpBenchReport>& ranks) {
  EpBenchReport all = ranks[0];
  for (size_t i = 1; i < ranks.size(); ++i) {
    all.dispatch_bytes += ranks[i].dispatch_bytes;
    all.dispatch_bytes_min += ranks[i].dispatch_bytes_min;
    all.combine_bytes += ranks[i].combine_bytes;
    all.combine_bytes_min += ranks[i].combine_bytes_min;
    for (size_t f = 0; f < all.forms.size(); ++f) {
      EpBenchForm& form = all.forms[f];
      form.dispatch_us = std::max(form.dispatch_us, ranks[i].forms[f].dispatch_us);
      form.combine_us = std::max(form.combine_us, ranks[i].forms[f].combine_us);
    }
  }
  return all;
}

StatusOr<EpBenchReport> RunThreads(const EpBenchOptions& options, const Gemma4Config& config) {
  worker::LocalRendezvous rendezvous(options.ranks);
  std::vector<StatusOr<EpBenchReport>> reports(options.ranks, Internal("did not run"));
  std::vector<std::thread> threads;
  threads.reserve(options.ranks);
  for (int rank = 0; rank < options.ranks; ++rank) {
    threads.emplace_back([&, rank] {
      const auto communicator = rendezvous.Form(rank, /*epoch_min=*/1, kPatience);
      reports[rank] = communicator.ok() ? BenchRank(options, rank, config).Run(**communicator)
                                        : StatusOr<EpBenchReport>(communicator.status());
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<EpBenchReport> ranks;
  for (const StatusOr<EpBenchReport>& report : reports) {
    FACET_RETURN_IF_ERROR(report.status());
    ranks.push_back(*report);
  }
  return Merge(ranks);
}

StatusOr<EpBenchReport> RunGlooRank(const EpBenchOptions& options, const Gemma4Config& config) {
  worker::GlooOptions gloo;  // Field by field: of a temporary, GCC 12 warns that it is not set.
  gloo.control.rank = options.rank;
  gloo.control.num_ranks = options.ranks;
  gloo.control.rendezvous_address = options.rendezvous_address;
  gloo.control.group_key = options.group_key;
  gloo.data_host = "127.0.0.1";
  FACET_ASSIGN_OR_RETURN(const std::unique_ptr<Communicator> communicator,
                         worker::FormGloo(gloo, kPatience));
  return BenchRank(options, options.rank, config).Run(*communicator);
}

StatusOr<EpBenchReport> ParseReport(const std::string& line) {
  const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("forms")) return Internal("a rank said: ", line);
  EpBenchReport report{.dispatch_bytes = json["dispatch_bytes"],
                       .dispatch_bytes_min = json["dispatch_bytes_min"],
                       .combine_bytes = json["combine_bytes"],
                       .combine_bytes_min = json["combine_bytes_min"],
                       .chosen_form = json["chosen_form"]};
  for (const nlohmann::json& form : json["forms"]) {
    report.forms.push_back({.form = form["form"],
                            .dispatch_us = form["dispatch_us"],
                            .combine_us = form["combine_us"]});
  }
  return report;
}

// Starts a process for each rank and collects what they print.
StatusOr<EpBenchReport> RunProcesses(const EpBenchOptions& options) {
  FACET_ASSIGN_OR_RETURN(const ReservedPort rendezvous, ReservedPort::Reserve());
  std::vector<ChildProcess> children;
  children.reserve(options.ranks);
  const std::string key = StrCat("bench ", getpid(), " ", Clock::Real().UnixNs());
  for (int rank = 0; rank < options.ranks; ++rank) {
    StatusOr<ChildProcess> child =
        ChildProcess::Start(StrCat("rank ", rank),
                            {options.program, "bench", "ep", "--json", "--comm", "gloo", "--ranks",
                             StrCat(options.ranks), "--tokens", StrCat(options.tokens), "--layers",
                             StrCat(options.layers), "--rank", StrCat(rank), "--rendezvous",
                             StrCat("127.0.0.1:", rendezvous.port()), "--group-key", key});
    FACET_RETURN_IF_ERROR(child.status());
    children.push_back(*std::move(child));
  }
  std::vector<EpBenchReport> ranks;
  const auto on_line = [&](const ChildProcess&, std::string_view line) {
    const StatusOr<EpBenchReport> report = ParseReport(std::string(line));
    if (report.ok()) ranks.push_back(*report);
  };
  for (ChildProcess& child : children) {
    while (!child.Reap(on_line)) {  // Each ends by its own deadlines.
      pollfd readable = {.fd = child.output(), .events = POLLIN};
      poll(&readable, 1, /*timeout_ms=*/20);
      child.ReadLines(on_line);
    }
    if (!child.EndedWell()) {
      return Internal(child.name(), " ended with ", child.EndText(), ": ", child.last_words());
    }
  }
  if (std::ssize(ranks) != options.ranks) return Internal(ranks.size(), " ranks reported");
  return Merge(ranks);
}

}  // namespace

StatusOr<EpBenchReport> RunEpBench(const EpBenchOptions& options) {
  FACET_RETURN_IF_ERROR(CheckOptions(options));
  if (options.comm == "gloo" && options.rank < 0) return RunProcesses(options);
  FACET_ASSIGN_OR_RETURN(const Gemma4Config config, BenchConfig());
  return options.comm == "gloo" ? RunGlooRank(options, config) : RunThreads(options, config);
}

std::string EpBenchJson(const EpBenchOptions& options, const EpBenchReport& report) {
  nlohmann::ordered_json forms = nlohmann::ordered_json::array();
  for (const EpBenchForm& form : report.forms) {
    forms.push_back(
        {{"form", form.form}, {"dispatch_us", form.dispatch_us}, {"combine_us", form.combine_us}});
  }
  const nlohmann::ordered_json root = {{"shape", "26b"},
                                       {"comm", options.comm},
                                       {"ranks", options.ranks},
                                       {"tokens", options.tokens},
                                       {"layers", options.layers},
                                       {"dispatch_bytes", report.dispatch_bytes},
                                       {"dispatch_bytes_min", report.dispatch_bytes_min},
                                       {"combine_bytes", report.combine_bytes},
                                       {"combine_bytes_min", report.combine_bytes_min},
                                       {"chosen_form", report.chosen_form},
                                       {"forms", forms}};
  return root.dump();
}

}  // namespace facet
