#include "cli/bench_command.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/engine_bench.h"
#include "cli/ep_bench.h"
#include "cli/json_lines.h"

namespace facet {
namespace {

void PrintTable(const EngineBenchOptions& options, const EngineBenchReport& report) {
  std::printf("%s  %s, --threads %d, prompt %d, output %d; loaded in %.1f s\n",
              options.model.c_str(), report.numerics_id.c_str(), options.threads, options.prompt,
              options.output, report.load_seconds);
  if (report.numerics_id.find("/fast-") != std::string::npos) {
    std::printf("kernels fast: bits change with batch and chunk\n");
  }
  std::printf("product ceiling %.0f GFLOP/s; weights: GB that one decode step reads\n",
              report.gemm_gflops);
  std::printf("%5s  %9s %9s %9s  %9s %9s  %8s %9s %7s %7s  %9s\n", "batch", "prefill", "decode",
              "output", "TTFT", "TPOT", "weights", "decode", "DRAM", "share", "prefill");
  std::printf("%5s  %9s %9s %9s  %9s %9s  %8s %9s %7s %7s  %9s\n", "", "tok/s", "tok/s", "tok/s",
              "ms", "ms", "GB", "GB/s", "GB/s", "", "GFLOP/s");
  for (const EngineBenchRun& run : report.runs) {
    std::printf("%5d  %9.1f %9.2f %9.2f  %9.1f %9.1f  %8.3f %9.1f %7.1f %6.0f%%  %9.0f\n",
                run.batch, run.prefill_tokens_per_second, run.decode_tokens_per_second,
                run.output_tokens_per_second, run.ttft_ms, run.tpot_ms,
                static_cast<double>(run.weight_bytes_per_step) / 1e9, run.decode_gbps,
                (run.read_gbps_before + run.read_gbps_after) / 2, run.decode_read_share * 100,
                run.prefill_gflops);
  }
  const auto lacks_decode = [](const EngineBenchRun& run) { return run.tpot_ms == 0; };
  if (std::any_of(report.runs.begin(), report.runs.end(), lacks_decode)) {
    std::printf("decode 0: no step decoded all requests, as some ended before others had begun\n");
  }
}

void PrintJson(const EngineBenchOptions& options, const EngineBenchReport& report) {
  nlohmann::ordered_json runs = nlohmann::ordered_json::array();
  for (const EngineBenchRun& run : report.runs) {
    runs.push_back({{"batch", run.batch},
                    {"weight_bytes_per_step", run.weight_bytes_per_step},
                    {"read_gbps_before", run.read_gbps_before},
                    {"read_gbps_after", run.read_gbps_after},
                    {"prefill_tokens_per_second", run.prefill_tokens_per_second},
                    {"decode_tokens_per_second", run.decode_tokens_per_second},
                    {"output_tokens_per_second", run.output_tokens_per_second},
                    {"ttft_ms", run.ttft_ms},
                    {"tpot_ms", run.tpot_ms},
                    {"decode_gbps", run.decode_gbps},
                    {"decode_read_share", run.decode_read_share},
                    {"prefill_gflops", run.prefill_gflops}});
  }
  const nlohmann::ordered_json root = {{"model", options.model},
                                       {"numerics_id", report.numerics_id},
                                       {"threads", options.threads},
                                       {"prompt", options.prompt},
                                       {"output", options.output},
                                       {"load_seconds", report.load_seconds},
                                       {"gemm_gflops", report.gemm_gflops},
                                       {"runs", runs}};
  std::printf("%s\n", root.dump().c_str());
}

void PrintEpTable(const EpBenchOptions& options, const EpBenchReport& report) {
  std::printf("one layer of 26b in bf16; %d tokens on each of %d ranks, %s; medians of %d\n",
              options.tokens, options.ranks, options.comm.c_str(), options.layers);
  const auto print_bytes = [](const char* what, int64_t sent, int64_t least) {
    std::printf("%-9s %10.3f MB sent, %10.3f MB needed\n", what, static_cast<double>(sent) / 1e6,
                static_cast<double>(least) / 1e6);
  };
  print_bytes("dispatch", report.dispatch_bytes, report.dispatch_bytes_min);
  print_bytes("combine", report.combine_bytes, report.combine_bytes_min);
  std::printf("%-10s  %12s %12s\n", "form", "dispatch us", "combine us");
  for (const EpBenchForm& form : report.forms) {
    std::printf("%-10s  %12.1f %12.1f%s\n", form.form.c_str(), form.dispatch_us, form.combine_us,
                form.form == report.chosen_form ? "  chosen" : "");
  }
}

void AddEpCommand(CLI::App& bench) {
  CLI::App* ep = bench.add_subcommand(
      "ep", "Dispatch and combine of expert parallelism, for the shape of 26B-A4B");
  const auto options = std::make_shared<EpBenchOptions>();
  const auto json = std::make_shared<bool>(false);
  ep->add_option("--ranks", options->ranks, "1, 2, 4 or 8")->default_str("2");
  ep->add_option("--comm", options->comm, "local (threads) or gloo (processes on loopback)");
  ep->add_option("--tokens", options->tokens, "Of each rank");
  ep->add_option("--layers", options->layers, "Times are medians over so many");
  ep->add_flag("--json", *json, "Print one JSON object");
  // Of the processes that the command starts.
  ep->add_option("--rank", options->rank)->group("");
  ep->add_option("--rendezvous", options->rendezvous_address)->group("");
  ep->add_option("--group-key", options->group_key)->group("");
  ep->footer("Example: facet bench ep --ranks 4 --comm gloo --tokens 64");
  ep->callback([options, json] {
    std::error_code error;
    options->program = std::filesystem::read_symlink("/proc/self/exe", error);
    const StatusOr<EpBenchReport> report = RunEpBench(*options);
    ExitOnError("bench ep", report.status());
    if (*json) {
      std::printf("%s\n", EpBenchJson(*options, *report).c_str());
    } else {
      PrintEpTable(*options, *report);
    }
  });
}

}  // namespace

void AddBenchCommand(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "Measure this machine");
  bench->require_subcommand(1);
  AddEpCommand(*bench);
  CLI::App* engine =
      bench->add_subcommand("engine", "The engine on a model, without network or tokenizer");
  const auto options = std::make_shared<EngineBenchOptions>();
  const auto json = std::make_shared<bool>(false);
  engine->add_option("--model", options->model, "Directory, or synth:e2b|e4b|26b|31b[:LAYERS]")
      ->required();
  engine->add_option("--dtype", options->dtype, "bf16 or f32");
  engine->add_option("--device", options->device, "cpu, cuda or cuda:N")->default_str("cpu");
  engine->add_option("--cpu-tier", options->cpu_tier, "scalar, avx2 or avx512");
  engine->add_option("--kernels", options->kernels, "exact, or fast: cuBLASLt, no equal bits")
      ->default_str("exact");
  engine->add_flag("--ple-on-host", options->ple_on_host,
                   "CUDA: per-layer embeddings in pinned host memory");
  engine->add_option("--threads", options->threads, "Default: all cores");
  engine->add_option("--batch", options->batches, "Requests at once; several: 1,100")
      ->delimiter(',');
  engine->add_option("--prompt", options->prompt, "Tokens of each prompt");
  engine->add_option("--output", options->output, "Tokens of each answer");
  engine->add_option("--repetitions", options->repetitions, "Of each batch");
  engine->add_option("--step-tokens", options->step_tokens, "Most tokens of one engine step");
  engine->add_option("--kv-gib", options->kv_gib, "Memory for keys and values");
  engine->add_flag("--json", *json, "Print one JSON object");
  engine->footer(
      "Example: facet bench engine --model synth:e4b --dtype bf16 --batch 1 --prompt 16 --output "
      "16");
  engine->callback([options, json] {
    const StatusOr<EngineBenchReport> report = RunEngineBench(*options);
    ExitOnError("bench engine", report.status());
    *json ? PrintJson(*options, *report) : PrintTable(*options, *report);
  });
}

}  // namespace facet
