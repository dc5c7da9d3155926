// What expert parallelism costs between ranks: dispatch and combine of one layer of 26B-A4B, by the
// ops and the communicator that serve, beside the bytes that no exchange could do without. Experts
// are not run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace facet {

struct EpBenchOptions {
  int ranks = 2;
  std::string comm = "local";  // Threads of this process; "gloo": processes on loopback.
  int tokens = 32;             // Of each rank; their experts are drawn uniformly.
  int layers = 30;             // Times are medians over these.
  std::string program;         // What gloo's ranks run: this program.
  // Of a process that is a rank of a gloo group; -1 starts them all.
  int rank = -1;
  std::string rendezvous_address;
  std::string group_key;
};

struct EpBenchForm {
  std::string form;        // "all-to-all" or "all-gather".
  double dispatch_us = 0;  // MoePack, travel, MoeUnpack; of the slowest rank.
  double combine_us = 0;   // MoeSliceSums and travel.
};

// Bytes are of one layer and all ranks, and count what goes to another rank.
struct EpBenchReport {
  int64_t dispatch_bytes = 0;
  int64_t dispatch_bytes_min = 0;  // Hidden state, ids and weights once to each rank concerned.
  int64_t combine_bytes = 0;
  int64_t combine_bytes_min = 0;  // A row for each slice that a token has elsewhere.
  std::string chosen_form;        // By what the ranks measured.
  std::vector<EpBenchForm> forms;
};

// INVALID_ARGUMENT names the option. For gloo, no thread may have been made before.
StatusOr<EpBenchReport> RunEpBench(const EpBenchOptions& options);

std::string EpBenchJson(const EpBenchOptions& options, const EpBenchReport& report);

}  // namespace facet
