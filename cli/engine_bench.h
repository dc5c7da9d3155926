// Runs batches of equal requests through engine and executor and measures them beside the machine's
// ceilings, probed before and after each repetition because they swing on shared machines.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace facet {

struct EngineBenchOptions {
  std::string model;  // A directory, or synth:SHAPE[:LAYERS].
  std::string dtype = "bf16";
  std::string device;              // "cpu", "cuda" or "cuda:N".
  std::string cpu_tier;            // Empty: the best there is.
  std::string kernels;             // "exact" (or empty) or "fast".
  bool ple_on_host = false;        // As a pool's.
  int threads = 0;                 // 0: all cores.
  std::vector<int> batches = {1};  // Requests at once; each in turn on the model loaded once.
  int prompt = 128;
  int output = 32;
  int repetitions = 3;    // Of each batch.
  int step_tokens = 512;  // At most, in one step of the engine.
  double kv_gib = 1;      // Memory for keys and values.
};

struct EngineBenchRun {
  int batch = 0;
  int64_t weight_bytes_per_step = 0;  // Of a decode step.
  double read_gbps_before = 0;        // Ceiling of the device's memory, GB/s.
  double read_gbps_after = 0;
  double prefill_tokens_per_second = 0;  // Prompts, until every sequence has its first token.
  double prefill_gflops = 0;
  // Decode is what batch_timeline.h says; these are 0 if there was none.
  double decode_tokens_per_second = 0;  // All sequences together.
  double tpot_ms = 0;
  double decode_gbps = 0;        // Bytes of weights and KV that decode steps read, over their time.
  double decode_read_share = 0;  // decode_gbps over the mean of the two probes.
  double output_tokens_per_second = 0;  // Over the whole run, prefill among it, as servers report.
  double ttft_ms = 0;                   // Of the first sequence.
};

struct EngineBenchReport {
  std::string numerics_id;
  double load_seconds = 0;
  double gemm_gflops = 0;  // Ceiling of the device's products.
  std::vector<EngineBenchRun> runs;
};

StatusOr<EngineBenchReport> RunEngineBench(const EngineBenchOptions& options);

}  // namespace facet
