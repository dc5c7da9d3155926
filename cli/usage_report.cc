#include "cli/usage_report.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/time/time.h"
#include "base/durable_file.h"
#include "proto/usage_record.h"

namespace facet {
namespace {

using v1::UsageRecord;

constexpr char kPhase[] = "phase";

std::string DayOf(const UsageRecord& record) {
  return absl::FormatTime("%Y-%m-%d", absl::FromUnixNanos(record.end_unix_ns()),
                          absl::UTCTimeZone());
}

struct Key {
  const char* name;
  std::string (*value)(const UsageRecord& record);
};

const Key kKeys[] = {
    {"tenant", [](const UsageRecord& it) { return it.tenant(); }},
    {"model", [](const UsageRecord& it) { return it.model(); }},
    {kPhase, nullptr},
    {"worker", [](const UsageRecord& it) { return it.worker(); }},
    {"device_class", [](const UsageRecord& it) { return it.device_class(); }},
    {"outcome", [](const UsageRecord& it) { return it.outcome(); }},
    {"finish", [](const UsageRecord& it) { return it.finish(); }},
    {"settled_by", [](const UsageRecord& it) { return it.settled_by(); }},
    {"day", DayOf},
};

const Key* FindKey(const std::string& name) {
  const auto* found = std::find_if(std::begin(kKeys), std::end(kKeys),
                                   [&](const Key& it) { return it.name == name; });
  return found == std::end(kKeys) ? nullptr : found;
}

UsageSum PrefillOf(const UsageRecord& record) {
  return {.requests = 1,
          .prompt_tokens = record.prompt_tokens(),
          .device_ns = record.prefill_ns(),
          .nano_usd = record.prefill_nano_usd(),
          .wasted_ns = -1};
}

UsageSum DecodeOf(const UsageRecord& record) {
  return {.requests = 1,
          .output_tokens = record.output_tokens(),
          .device_ns = record.decode_ns(),
          .nano_usd = record.decode_nano_usd(),
          .wasted_ns = -1};
}

UsageSum SumOf(const UsageRecord& record) {
  UsageSum sum{.requests = 1,
               .prompt_tokens = record.prompt_tokens(),
               .output_tokens = record.output_tokens(),
               .device_ns = record.prefill_ns() + record.decode_ns(),
               .nano_usd = record.prefill_nano_usd() + record.decode_nano_usd()};
  for (const auto& [reason, ns] : record.wasted_ns()) sum.wasted_ns += ns;
  return sum;
}

void Add(const UsageSum& more, UsageSum& sum) {
  sum.requests += more.requests;
  sum.prompt_tokens += more.prompt_tokens;
  sum.output_tokens += more.output_tokens;
  sum.device_ns += more.device_ns;
  sum.nano_usd += more.nano_usd;
  sum.wasted_ns = more.wasted_ns < 0 ? -1 : sum.wasted_ns + more.wasted_ns;
}

// 1234567890 nano-USD are "1.234567890": digits only, so that nothing is rounded.
std::string Decimal(int64_t nano) {
  char text[32];
  std::snprintf(text, sizeof(text), "%s%lld.%09lld", nano < 0 ? "-" : "",
                static_cast<long long>(std::abs(nano / 1'000'000'000)),
                static_cast<long long>(std::abs(nano % 1'000'000'000)));
  return text;
}

std::string WasteShare(const UsageSum& sum) {
  if (sum.wasted_ns < 0) return "-";
  char text[16];
  const double share = sum.device_ns == 0 ? 0
                                          : 100.0 * static_cast<double>(sum.wasted_ns) /
                                                static_cast<double>(sum.device_ns);
  std::snprintf(text, sizeof(text), "%.1f%%", share);
  return text;
}

std::vector<std::string> CellsOf(std::vector<std::string> cells, const UsageSum& sum) {
  for (const int64_t count : {sum.requests, sum.prompt_tokens, sum.output_tokens}) {
    cells.push_back(std::to_string(count));
  }
  cells.push_back(Decimal(sum.device_ns));
  cells.push_back(Decimal(sum.nano_usd));
  cells.push_back(WasteShare(sum));
  return cells;
}

}  // namespace

Status UsageRecords::Read(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) return ReadFile(path);
  std::vector<std::string> files;
  for (auto it = std::filesystem::directory_iterator(path, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with("usage-") && name.ends_with(".jsonl"))
      files.push_back(it->path().string());
  }
  if (error) return Unavailable("cannot list ", path, ": ", error.message());
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) FACET_RETURN_IF_ERROR(ReadFile(file));
  return absl::OkStatus();
}

Status UsageRecords::ReadFile(const std::string& path) {
  int64_t number = 0;
  Status wrong;
  const Status read = ForEachLine(path, [&](std::string_view line) {
    ++number;
    StatusOr<UsageRecord> record = ParseUsageLine(line);
    if (!record.ok()) {
      if (wrong.ok()) wrong = Annotate(record.status(), StrCat(path, ":", number));
      return;
    }
    const auto [it, is_new] = records_.try_emplace(UsageKey(*record), *record);
    if (!is_new && it->second.settled_by() != "worker" && record->settled_by() == "worker") {
      it->second = *std::move(record);
    }
  });
  return read.ok() ? wrong : read;
}

Status CheckUsageKeys(const std::vector<std::string>& by) {
  std::string names;
  for (const Key& key : kKeys) names += StrCat(names.empty() ? "" : ", ", key.name);
  for (const std::string& name : by) {
    if (FindKey(name) == nullptr) {
      return InvalidArgument("--by has \"", name, "\"; it must be some of ", names);
    }
    if (std::count(by.begin(), by.end(), name) > 1) {
      return InvalidArgument("--by has \"", name, "\" twice");
    }
  }
  return absl::OkStatus();
}

UsageReport SumUsage(const UsageRecords& records, const UsageQuery& query) {
  UsageReport report;
  const auto phase = std::find(query.by.begin(), query.by.end(), kPhase);
  for (const auto& [record_key, record] : records.by_key()) {
    if (record.end_unix_ns() < query.from_unix_ns || record.end_unix_ns() >= query.to_unix_ns) {
      continue;
    }
    Add(SumOf(record), report.total);
    std::vector<std::string> values;
    for (const std::string& name : query.by) {
      values.push_back(name == kPhase ? "" : FindKey(name)->value(record));
    }
    if (phase == query.by.end()) {
      Add(SumOf(record), report.rows[values]);
      continue;
    }
    std::string& value = values[static_cast<size_t>(phase - query.by.begin())];
    value = "prefill";
    Add(PrefillOf(record), report.rows[values]);
    value = "decode";
    Add(DecodeOf(record), report.rows[values]);
  }
  return report;
}

std::string UsageTable(const UsageReport& report, const UsageQuery& query) {
  std::vector<std::vector<std::string>> lines;
  lines.push_back(query.by);
  for (const char* heading :
       {"requests", "prompt tokens", "output tokens", "device s", "USD", "waste"}) {
    lines.back().emplace_back(heading);
  }
  for (const auto& [values, sum] : report.rows) lines.push_back(CellsOf(values, sum));
  std::vector<std::string> total(query.by.size());
  if (!total.empty()) total[0] = "total";
  if (!query.by.empty() || report.rows.empty()) lines.push_back(CellsOf(total, report.total));
  std::vector<size_t> widths(lines[0].size());
  for (const auto& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  std::string table;
  for (const auto& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) {
      const std::string space(widths[i] - line[i].size(), ' ');
      const bool is_name = i < query.by.size();
      table += StrCat(i > 0 ? "  " : "", is_name ? line[i] + space : space + line[i]);
    }
    table += "\n";
  }
  return table;
}

std::string UsageJsonLines(const UsageReport& report, const UsageQuery& query) {
  std::string lines;
  for (const auto& [values, sum] : report.rows) {
    nlohmann::ordered_json row;
    for (size_t i = 0; i < values.size(); ++i) row[query.by[i]] = values[i];
    row["requests"] = sum.requests;
    row["prompt_tokens"] = sum.prompt_tokens;
    row["output_tokens"] = sum.output_tokens;
    row["device_ns"] = sum.device_ns;
    row["nano_usd"] = sum.nano_usd;
    row["usd"] = Decimal(sum.nano_usd);
    if (sum.wasted_ns >= 0) row["wasted_ns"] = sum.wasted_ns;
    lines += row.dump() + "\n";
  }
  return lines;
}

StatusOr<int64_t> ParseInstant(const std::string& flag, const std::string& text) {
  absl::Time time;
  std::string error;
  if ((text.size() == 10 && absl::ParseTime("%Y-%m-%d", text, &time, &error)) ||
      absl::ParseTime(absl::RFC3339_full, text, &time, &error)) {
    return absl::ToUnixNanos(time);
  }
  return InvalidArgument(flag, " is \"", text,
                         "\"; it must be a day like 2026-11-01 or an instant like "
                         "2026-11-01T12:00:00Z");
}

}  // namespace facet
