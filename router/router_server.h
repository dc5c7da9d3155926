// A router that serves: its fronts and its pages for operators around it, as the config says. What
// main runs, and what tests start inside their own process.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "base/http_pages.h"
#include "base/status.h"
#include "facet/v1/config.pb.h"
#include "router/admission/tenants.h"
#include "router/front/grpc_front.h"
#include "router/front/openai_front.h"
#include "router/router.h"
#include "router/status_page.h"

namespace facet::router {

class RouterServer {
 public:
  // Serves when it returns. An error says in one sentence what cannot be read or bound.
  static StatusOr<std::unique_ptr<RouterServer>> Start(const v1::ClusterConfig& config,
                                                       const RouterOptions& options);

  // As Start, around models that were made elsewhere.
  static StatusOr<std::unique_ptr<RouterServer>> Start(const v1::ClusterConfig& config,
                                                       std::unique_ptr<Router> router);
  ~RouterServer();

  int grpc_port() const { return grpc_->port(); }

  int http_port() const { return openai_ ? openai_->port() : 0; }  // 0: off.

  int metrics_port() const { return pages_ ? pages_->port() : 0; }  // 0: off.

  Router& router() { return *router_; }

  // Refuses new requests, finishes those that run within drain_ms_max, then ends everything.
  void Drain();

 private:
  RouterServer() = default;
  HttpPages::Pages Pages() const;
  // Sets the metrics that are looked at only when somebody scrapes.
  void RefreshMetrics() const;
  void Stop();

  int64_t drain_ms_max_ = 0;
  std::map<std::string, std::string> certificates_;  // Files by what they are used for.
  std::unique_ptr<TenantDirectory> tenants_;
  // Requests hold streams that belong to the fronts, so the router goes first.
  std::unique_ptr<GrpcFront> grpc_;
  std::unique_ptr<OpenAiFront> openai_;
  std::unique_ptr<Router> router_;
  std::unique_ptr<StatusPage> status_page_;
  std::unique_ptr<HttpPages> pages_;  // At the metrics address.
};

}  // namespace facet::router
