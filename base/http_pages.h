// Pages that operators and probes read from a process over HTTP: metrics, health, status.
//
//   FACET_ASSIGN_OR_RETURN(auto pages, HttpPages::Start("127.0.0.1:0", {
//       {"/metrics", [&] { return HttpPage{.body = MetricsText(metrics)}; }},
//       {"/livez", [] { return HttpPage{.body = "ok\n"}; }}}));
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/status.h"

namespace facet {

struct HttpPage {
  int code = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

class HttpPages {
 public:
  // By path. Called on the server's thread, one at a time, at each GET or HEAD of the path, until
  // the destructor returns.
  using Pages = std::map<std::string, std::function<HttpPage()>, std::less<>>;

  // Serves when it returns. address is host:port; port 0 picks one. UNAVAILABLE names what cannot
  // be bound.
  static StatusOr<std::unique_ptr<HttpPages>> Start(const std::string& address, Pages pages);
  ~HttpPages();

  int port() const;

 private:
  class Server;
  explicit HttpPages(std::unique_ptr<Server> server);

  std::unique_ptr<Server> server_;
};

}  // namespace facet
