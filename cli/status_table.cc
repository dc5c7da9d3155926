#include "cli/status_table.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <vector>

#include "proto/cluster_status.h"

namespace facet {
namespace {

using Row = std::vector<std::string>;

enum class Align { kLeft, kRight };

struct Column {
  const char* title;
  Align align;
};

constexpr Column kColumns[] = {
    {"worker", Align::kLeft},     {"address", Align::kLeft}, {"model", Align::kLeft},
    {"state", Align::kLeft},      {"run", Align::kRight},    {"wait", Align::kRight},
    {"KV used", Align::kRight},   {"busy", Align::kRight},   {"in tok/s", Align::kRight},
    {"out tok/s", Align::kRight}, {"$/h", Align::kRight},    {"$/Mtok out", Align::kRight},
};

constexpr size_t kNumColumns = std::size(kColumns);

// The name, with the rank in a group.
std::string NameCell(const v1::WorkerStatus& worker) {
  if (worker.group().empty()) return WorkerName(worker);
  return StrCat(WorkerName(worker), " rank ", worker.rank());
}

Colour ColourOf(v1::WorkerState state) {
  switch (state) {
    case v1::WORKER_STATE_READY:
    case v1::WORKER_STATE_SPARE:
      return Colour::kGreen;
    case v1::WORKER_STATE_CONNECTING:
    case v1::WORKER_STATE_LOADING:
    case v1::WORKER_STATE_DRAINING:
      return Colour::kYellow;
    default:
      return Colour::kRed;
  }
}

std::string KvText(const v1::WorkerStatus& worker) {
  if (worker.kv_bytes_total() == 0) return "-";
  const double share =
      static_cast<double>(worker.kv_bytes_used()) / static_cast<double>(worker.kv_bytes_total());
  return StrCat(FixedText(100 * share, 0), "% of ", BytesText(worker.kv_bytes_total()));
}

Row RowOf(const v1::WorkerStatus& worker, const Paint& paint) {
  const bool known = worker.state() != v1::WORKER_STATE_CONNECTING &&
                     worker.state() != v1::WORKER_STATE_UNSPECIFIED;
  const auto number = [known](const std::string& text) { return known ? text : "-"; };
  return {
      NameCell(worker),
      worker.address(),
      worker.model(),
      paint(ColourOf(worker.state()), "● " + StateName(worker.state())),
      number(std::to_string(worker.sequences_running())),
      number(std::to_string(worker.sequences_waiting())),
      KvText(worker),
      number(FixedText(100 * worker.busy_share(), 0) + "%"),
      number(FixedText(worker.prompt_tokens_per_second(), 1)),
      number(FixedText(worker.output_tokens_per_second(), 1)),
      number(FixedText(worker.price_usd_per_hour(), 2)),
      worker.usd_per_mtok_output() > 0 ? FixedText(worker.usd_per_mtok_output(), 3) : "-",
  };
}

std::string Repeat(std::string_view text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

std::string Rule(const std::vector<int>& widths,
                 std::string_view left,
                 std::string_view middle,
                 std::string_view right) {
  std::string line(left);
  for (size_t i = 0; i < widths.size(); ++i) {
    if (i > 0) line += middle;
    line += Repeat("─", widths[i] + 2);
  }
  return line.append(right);
}

std::string Box(const Row& head, const std::vector<Row>& rows, const Paint& paint) {
  std::vector<int> widths;
  for (size_t i = 0; i < kNumColumns; ++i) {
    int width = DisplayWidth(head[i]);
    for (const Row& row : rows) width = std::max(width, DisplayWidth(row[i]));
    widths.push_back(width);
  }
  const std::string bar = paint(Colour::kDim, "│");
  const auto line = [&](const Row& row) {
    std::string text = bar;
    for (size_t i = 0; i < kNumColumns; ++i) {
      const std::string gap(widths[i] - DisplayWidth(row[i]), ' ');
      const bool right = kColumns[i].align == Align::kRight;
      text += StrCat(" ", right ? gap : "", row[i], right ? "" : gap, " ", bar);
    }
    return text + "\n";
  };
  std::string out = paint(Colour::kDim, Rule(widths, "╭", "┬", "╮")) + "\n";
  out += line(head);
  out += paint(Colour::kDim, Rule(widths, "├", "┼", "┤")) + "\n";
  for (const Row& row : rows) out += line(row);
  out += paint(Colour::kDim, Rule(widths, "╰", "┴", "╯")) + "\n";
  return out;
}

// What its ranks' tokens chose, in bars of equally many experts, and how far the busiest expert and
// rank are above the mean.
std::string ExpertsText(const std::vector<uint64_t>& choices, int32_t num_ranks) {
  constexpr size_t kBarsMax = 32;
  const uint64_t total = std::accumulate(choices.begin(), choices.end(), uint64_t{0});
  if (total == 0) return "experts: not told before a minute, 100,000 tokens and 8 tenants";
  const auto sums = [&](size_t parts) {
    std::vector<double> out(parts);
    for (size_t e = 0; e < choices.size(); ++e) {
      out[e * parts / choices.size()] += static_cast<double>(choices[e]);
    }
    return out;
  };
  const auto skew = [&](const std::vector<double>& parts) {
    return *std::max_element(parts.begin(), parts.end()) * static_cast<double>(parts.size()) /
           static_cast<double>(total);
  };
  const std::vector<double> bars = sums(std::min(kBarsMax, choices.size()));
  return StrCat("experts ", Sparkline(bars), " busiest ", FixedText(skew(sums(choices.size())), 2),
                " × mean, busiest rank ", FixedText(skew(sums(static_cast<size_t>(num_ranks))), 2),
                " ×");
}

// One line for each expert-parallel group.
std::string GroupLines(const v1::GetStatusResponse& status, const Paint& paint) {
  struct Group {
    int32_t num_ranks = 0;
    int64_t epoch = 0;
    int32_t ready = 0;
    std::vector<uint64_t> choices;
  };

  std::map<std::string, Group> groups;
  for (const v1::WorkerStatus& worker : status.workers()) {
    if (worker.group().empty()) continue;
    Group& group = groups[worker.group()];
    group.num_ranks = std::max(1, worker.num_ranks());
    group.epoch = std::max(group.epoch, worker.group_epoch());
    if (worker.state() == v1::WORKER_STATE_READY) ++group.ready;
    group.choices.resize(
        std::max(group.choices.size(), static_cast<size_t>(worker.expert_choices_size())));
    for (int e = 0; e < worker.expert_choices_size(); ++e) {
      group.choices[static_cast<size_t>(e)] += worker.expert_choices(e);
    }
  }
  std::string out;
  for (const auto& [name, group] : groups) {
    out += StrCat(paint(Colour::kBold, StrCat("group ", name)), "  epoch ", group.epoch, ", ",
                  group.ready, " of ", group.num_ranks, " ranks ready; ",
                  ExpertsText(group.choices, group.num_ranks), "\n");
  }
  return out;
}

std::string UptimeText(double seconds) {
  const auto whole = static_cast<int64_t>(seconds);
  if (whole < 60) return StrCat(whole, " s");
  if (whole < 3600) return StrCat(whole / 60, " min ", whole % 60, " s");
  return StrCat(whole / 3600, " h ", whole / 60 % 60, " min");
}

}  // namespace

std::string StatusTable(const v1::GetStatusResponse& status, const Paint& paint) {
  const auto ready =
      std::count_if(status.workers().begin(), status.workers().end(),
                    [](const auto& worker) { return worker.state() == v1::WORKER_STATE_READY; });
  std::string out =
      StrCat(paint(Colour::kBold, "cluster " + status.cluster()), "  facet ", status.version(),
             ", up ", UptimeText(status.uptime_seconds()), "; ", ready, " of ",
             status.workers_size(), " workers ready; requests: ", status.requests_running(),
             " running, ", status.requests_queued(), " queued\n");
  Row head;
  for (const Column& column : kColumns) head.push_back(paint(Colour::kBold, column.title));
  std::vector<Row> rows;
  for (const v1::WorkerStatus& worker : status.workers()) rows.push_back(RowOf(worker, paint));
  out += Box(head, rows, paint);
  out += GroupLines(status, paint);
  for (const v1::WorkerStatus& worker : status.workers()) {
    if (worker.state() == v1::WORKER_STATE_READY || worker.reason().empty()) continue;
    out += StrCat(paint(ColourOf(worker.state()), WorkerName(worker)), ": ", worker.reason(), "\n");
  }
  return out;
}

}  // namespace facet
