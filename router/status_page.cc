#include "router/status_page.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "proto/cluster_status.h"
#include "status_page_html.h"

namespace facet::router {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kWindow = 30;  // Samples: the last minute.
constexpr size_t kTenantsMax = 20;

// Over all labels, by bucket.
std::vector<uint64_t> CountsOf(const HistogramFamily& family) {
  std::vector<uint64_t> sums;
  for (const auto& [labels, cell] : family.cells()) {
    sums.resize(cell.counts().size());
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += cell.counts()[i];
  }
  return sums;
}

std::vector<double> BoundsOf(const HistogramFamily& family) {
  return family.cells().empty() ? std::vector<double>() : family.cells().begin()->second.bounds();
}

// The q-quantile of what was observed between two counts, linear inside a bucket; the highest bound
// for what is above it, nothing if nothing was observed.
std::optional<double> Quantile(const std::vector<double>& bounds,
                               const std::vector<uint64_t>& before,
                               const std::vector<uint64_t>& after,
                               double q) {
  std::vector<uint64_t> counts = after;
  for (size_t i = 0; i < before.size(); ++i) counts[i] -= before[i];
  uint64_t total = 0;
  for (const uint64_t count : counts) total += count;
  if (total == 0) return std::nullopt;
  const double wanted = q * static_cast<double>(total);
  double below = 0;
  for (size_t i = 0; i < bounds.size(); ++i) {
    const auto here = static_cast<double>(counts[i]);
    if (below + here >= wanted) {
      const double low = i == 0 ? 0 : bounds[i - 1];
      return low + (bounds[i] - low) * (here == 0 ? 1 : (wanted - below) / here);
    }
    below += here;
  }
  return bounds.back();
}

Json OrNull(std::optional<double> value) { return value.has_value() ? Json(*value) : Json(); }

struct TenantSum {
  std::string tenant;
  std::string model;
  int64_t prompt = 0;
  int64_t output = 0;  // Thoughts included.
  int64_t nano_usd = 0;
};

std::vector<TenantSum> SumsByTenant(const RouterMetrics& metrics) {
  std::map<std::pair<std::string, std::string>, TenantSum> sums;
  const auto at = [&](const std::string& model, const std::string& tenant) -> TenantSum& {
    TenantSum& sum = sums[{tenant, model}];
    sum.tenant = tenant;
    sum.model = model;
    return sum;
  };
  for (const auto& [labels, cell] : metrics.tokens.cells()) {
    TenantSum& sum = at(labels[0], labels[1]);
    (labels[2] == "prompt" ? sum.prompt : sum.output) += cell.value();
  }
  for (const auto& [labels, cell] : metrics.charged.cells()) {
    at(labels[0], labels[1]).nano_usd += cell.value();
  }
  std::vector<TenantSum> out;
  out.reserve(sums.size());
  for (auto& [key, sum] : sums) out.push_back(std::move(sum));
  std::stable_sort(out.begin(), out.end(), [](const TenantSum& a, const TenantSum& b) {
    return std::pair(a.nano_usd, a.output) > std::pair(b.nano_usd, b.output);
  });
  return out;
}

// The dearest, and the sum of the others as "other".
Json TenantsJson(std::vector<TenantSum> sums) {
  if (sums.size() > kTenantsMax) {
    TenantSum other{.tenant = "other", .model = "all"};
    for (size_t i = kTenantsMax - 1; i < sums.size(); ++i) {
      other.prompt += sums[i].prompt;
      other.output += sums[i].output;
      other.nano_usd += sums[i].nano_usd;
    }
    sums.resize(kTenantsMax - 1);
    sums.push_back(other);
  }
  Json out = Json::array();
  for (const TenantSum& sum : sums) {
    out.push_back(Json{{"tenant", sum.tenant},
                       {"model", sum.model},
                       {"prompt_tokens", sum.prompt},
                       {"output_tokens", sum.output},
                       {"usd", static_cast<double>(sum.nano_usd) / 1e9}});
  }
  return out;
}

}  // namespace

StatusPage::StatusPage(Router& router) : router_(router), thread_([this] { ThreadMain(); }) {}

StatusPage::~StatusPage() {
  end_.Notify();
  thread_.join();
}

HttpPage StatusPage::Html() {
  return {.content_type = "text/html; charset=utf-8", .body = kStatusPageHtml};
}

HttpPage StatusPage::Json() const {
  std::vector<double> ttft_bounds;
  std::vector<double> itl_bounds;
  std::vector<TenantSum> tenants;
  {
    auto metrics = router_.metrics().Write();
    ttft_bounds = BoundsOf(metrics->ttft);
    itl_bounds = BoundsOf(metrics->itl);
    tenants = SumsByTenant(*metrics);
  }
  using nlohmann::ordered_json;
  ordered_json history{{"unix_ms", ordered_json::array()}};
  absl::MutexLock lock(&mutex_);
  for (size_t i = 0; i < points_.size(); ++i) {
    const Point& point = points_[i];
    const Point& before = points_[i < kWindow ? 0 : i - kWindow];
    history["unix_ms"].push_back(point.unix_ms);
    history["requests_running"].push_back(point.requests_running);
    history["requests_queued"].push_back(point.requests_queued);
    history["prompt_tokens_per_second"].push_back(point.prompt_tokens_per_second);
    history["output_tokens_per_second"].push_back(point.output_tokens_per_second);
    history["busy_share"].push_back(point.busy_share);
    history["kv_used_share"].push_back(point.kv_used_share);
    history["usd_per_hour"].push_back(point.usd_per_hour);
    history["ttft_p50_seconds"].push_back(
        OrNull(Quantile(ttft_bounds, before.ttft, point.ttft, 0.5)));
    history["ttft_p95_seconds"].push_back(
        OrNull(Quantile(ttft_bounds, before.ttft, point.ttft, 0.95)));
    history["itl_p50_seconds"].push_back(OrNull(Quantile(itl_bounds, before.itl, point.itl, 0.5)));
    history["itl_p95_seconds"].push_back(OrNull(Quantile(itl_bounds, before.itl, point.itl, 0.95)));
  }
  const ordered_json page{{"status", StatusJson(router_.GetStatus())},
                          {"history", std::move(history)},
                          {"tenants", TenantsJson(std::move(tenants))}};
  // Reasons hold what workers say: bytes that are no text are replaced.
  return {.content_type = "application/json",
          .body = page.dump(-1, ' ', false, ordered_json::error_handler_t::replace)};
}

void StatusPage::Sample() {
  Point point = Now();
  absl::MutexLock lock(&mutex_);
  points_.push_back(std::move(point));
  if (points_.size() > kSamplesMax) points_.pop_front();
}

void StatusPage::ThreadMain() {
  do {
    Sample();
  } while (!end_.WaitForNotificationWithTimeout(absl::Milliseconds(kPeriodMs)));
}

StatusPage::Point StatusPage::Now() const {
  const v1::GetStatusResponse status = router_.GetStatus();
  Point point{.unix_ms = router_.clock().UnixNs() / 1'000'000,
              .requests_running = status.requests_running(),
              .requests_queued = status.requests_queued()};
  int reached = 0;
  double kv_used = 0;
  double kv_total = 0;
  for (const v1::WorkerStatus& worker : status.workers()) {
    if (worker.state() == v1::WORKER_STATE_CONNECTING || worker.state() == v1::WORKER_STATE_DEAD) {
      continue;
    }
    ++reached;
    point.prompt_tokens_per_second += worker.prompt_tokens_per_second();
    point.output_tokens_per_second += worker.output_tokens_per_second();
    point.busy_share += worker.busy_share();
    point.usd_per_hour += worker.price_usd_per_hour();
    kv_used += static_cast<double>(worker.kv_bytes_used());
    kv_total += static_cast<double>(worker.kv_bytes_total());
  }
  if (reached > 0) point.busy_share /= reached;
  if (kv_total > 0) point.kv_used_share = kv_used / kv_total;
  auto metrics = router_.metrics().Write();
  point.ttft = CountsOf(metrics->ttft);
  point.itl = CountsOf(metrics->itl);
  return point;
}

}  // namespace facet::router
