#include "router/router_server.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/process_stats.h"
#include "proto/grpc_tls.h"

namespace facet::router {

StatusOr<std::unique_ptr<RouterServer>> RouterServer::Start(const v1::ClusterConfig& config,
                                                            const RouterOptions& options) {
  FACET_ASSIGN_OR_RETURN(std::unique_ptr<Router> router, Router::Create(config, options));
  return Start(config, std::move(router));
}

StatusOr<std::unique_ptr<RouterServer>> RouterServer::Start(const v1::ClusterConfig& config,
                                                            std::unique_ptr<Router> router) {
  const v1::RouterConfig& router_config = config.router();
  std::unique_ptr<RouterServer> server(new RouterServer);
  server->drain_ms_max_ = router_config.drain_ms_max();
  if (config.has_worker_tls()) {
    server->certificates_["worker_tls"] = config.worker_tls().cert_file();
  }
  if (router_config.has_tls()) {
    server->certificates_["router_tls"] = router_config.tls().cert_file();
  }
  server->tenants_ = std::make_unique<TenantDirectory>();
  if (!config.tenants_file().empty()) {
    FACET_ASSIGN_OR_RETURN(server->tenants_, TenantDirectory::Open(config.tenants_file()));
    server->tenants_->Follow();
  }
  FACET_ASSIGN_OR_RETURN(auto credentials, RouterServerCredentials(router_config));
  server->router_ = std::move(router);
  if (router_config.metrics_address() != "off") {
    server->status_page_ = std::make_unique<StatusPage>(*server->router_);
    FACET_ASSIGN_OR_RETURN(server->pages_,
                           HttpPages::Start(router_config.metrics_address(), server->Pages()));
  }
  FACET_ASSIGN_OR_RETURN(server->grpc_,
                         GrpcFront::Start({.address = router_config.grpc_address(),
                                           .credentials = std::move(credentials),
                                           .message_bytes_max = router_config.message_bytes_max()},
                                          *server->tenants_, *server->router_));
  if (router_config.http_address() != "off") {
    FACET_ASSIGN_OR_RETURN(server->openai_,
                           OpenAiFront::Start({.address = router_config.http_address(),
                                               .body_bytes_max = router_config.message_bytes_max()},
                                              *server->tenants_, *server->router_));
  }
  server->router_->Start();
  return server;
}

HttpPages::Pages RouterServer::Pages() const {
  const auto ready = [this] {
    const std::shared_ptr<const FleetSnapshot> fleet = router_->snapshot();
    return !router_->draining() &&
           std::any_of(router_->models().begin(), router_->models().end(),
                       [&](const ServedModel& model) { return fleet->AnyReady(model.name); });
  };
  return {{"/metrics",
           [this] {
             RefreshMetrics();
             return HttpPage{.content_type = kMetricsContentType,
                             .body = MetricsText(router_->metrics())};
           }},
          {"/status", [] { return StatusPage::Html(); }},
          {"/status.json", [this] { return status_page_->Json(); }},
          {"/livez", [] { return HttpPage{.body = "ok\n"}; }},
          {"/readyz", [ready] {
             return ready() ? HttpPage{.body = "ok\n"}
                            : HttpPage{.code = 503, .body = "draining, or no model has a worker\n"};
           }}};
}

void RouterServer::RefreshMetrics() const {
  const std::shared_ptr<const FleetSnapshot> fleet = router_->snapshot();
  const int64_t now_ns = router_->clock().NowNs();
  // Files before the lock: every token's relay waits for it.
  const ProcessStats process = ReadProcessStats();
  std::map<std::string, int64_t> expiries;
  for (const auto& [use, file] : certificates_) {
    const StatusOr<int64_t> expiry = CertificateExpiry(file);
    if (expiry.ok()) expiries[use] = *expiry;  // Else it is just being replaced.
  }
  auto metrics = router_->metrics().Write();
  ReportProcess("router", process, *metrics);
  for (const auto& [use, expiry] : expiries) {
    metrics->certificate_expiry.At(use).Set(static_cast<double>(expiry));
  }
  for (const WorkerView& worker : fleet->workers) {
    const std::string& pool = worker.status.pool();
    const std::string index = std::to_string(worker.status.index());
    const int64_t age_ns = worker.last_heard_ns == 0 ? 0 : now_ns - worker.last_heard_ns;
    metrics->worker_report_age.At(pool, index).Set(static_cast<double>(age_ns) / 1e9);
    if (!worker.status.group().empty()) {
      metrics->worker_group_epoch.At(pool, index)
          .Set(static_cast<double>(worker.status.group_epoch()));
    }
    const RouteCandidate& room = worker.candidate;
    metrics->worker_credits.At(pool, index, "sequences")
        .Set(room.ready ? static_cast<double>(room.sequence_credits) : 0);
    metrics->worker_credits.At(pool, index, "prompt_tokens")
        .Set(room.ready ? static_cast<double>(room.prefill_token_credits) : 0);
  }
}

RouterServer::~RouterServer() { Stop(); }

void RouterServer::Drain() {
  grpc_->BeginDrain();
  router_->Drain(drain_ms_max_);
  Stop();
}

// Ends the fronts while the router still answers, then the router.
void RouterServer::Stop() {
  if (router_ == nullptr) return;
  constexpr int64_t kLastWordMs = 500;
  router_->Drain(0);
  if (openai_ != nullptr) openai_->Shutdown(kLastWordMs);
  if (grpc_ != nullptr) grpc_->Shutdown(kLastWordMs);
  router_->Stop();
  pages_.reset();
  status_page_.reset();
  router_.reset();
}

}  // namespace facet::router
