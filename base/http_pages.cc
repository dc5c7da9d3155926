#include "base/http_pages.h"

#include <algorithm>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <string_view>
#include <utility>

#include "base/tcp_server.h"

namespace facet {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr int kConnectionsMax = 64;
constexpr uint32_t kHeaderBytesMax = 16 * 1024;
constexpr uint64_t kBodyBytesMax = 1024;
constexpr auto kIdle = std::chrono::seconds(60);
constexpr auto kWrite = std::chrono::seconds(10);

}  // namespace

class HttpPages::Server {
 public:
  explicit Server(Pages pages)
      : pages_(std::move(pages)),
        tcp_(kConnectionsMax, [this](tcp::socket socket) { return Converse(std::move(socket)); }) {}

  Status Listen(const std::string& address) { return tcp_.Listen(address); }

  int port() const { return tcp_.port(); }

 private:
  using Request = http::request<http::string_body>;
  using Response = http::response<http::string_body>;

  // Requests of one connection, one after the other.
  asio::awaitable<void> Converse(tcp::socket socket) {
    beast::tcp_stream stream(std::move(socket));
    beast::flat_buffer buffer;
    while (true) {
      http::request_parser<http::string_body> parser;
      parser.header_limit(kHeaderBytesMax);
      parser.body_limit(kBodyBytesMax);
      stream.expires_after(kIdle);
      auto [read_error, read] = co_await http::async_read(stream, buffer, parser, kAwait);
      if (read_error) co_return;
      const Response response = Answer(parser.get());
      stream.expires_after(kWrite);
      auto [write_error, written] = co_await http::async_write(stream, response, kAwait);
      if (write_error || !response.keep_alive()) co_return;
    }
  }

  Response Answer(const Request& request) const {
    const beast::string_view target = request.target();
    const std::string_view path(target.data(), std::min(target.find('?'), target.size()));
    const auto found = pages_.find(path);
    HttpPage page;
    if (found == pages_.end()) {
      page = {.code = 404, .body = "no such page; there are" + Paths() + "\n"};
    } else if (request.method() != http::verb::get && request.method() != http::verb::head) {
      page = {.code = 405, .body = "only GET and HEAD\n"};
    } else {
      page = found->second();
    }
    Response response(static_cast<http::status>(page.code), request.version());
    response.set(http::field::server, "facet");
    response.set(http::field::content_type, page.content_type);
    response.set(http::field::cache_control, "no-store");
    if (page.code == 405) response.set(http::field::allow, "GET, HEAD");
    response.keep_alive(request.keep_alive());
    response.body() = std::move(page.body);
    response.prepare_payload();
    if (request.method() == http::verb::head) response.body().clear();  // The length stays.
    return response;
  }

  std::string Paths() const {
    std::string paths;
    for (const auto& [path, page] : pages_) paths += " " + path;
    return paths;
  }

  const Pages pages_;
  TcpServer tcp_;  // Last: its thread reads the pages.
};

StatusOr<std::unique_ptr<HttpPages>> HttpPages::Start(const std::string& address, Pages pages) {
  auto server = std::make_unique<Server>(std::move(pages));
  FACET_RETURN_IF_ERROR(server->Listen(address));
  return std::unique_ptr<HttpPages>(new HttpPages(std::move(server)));
}

HttpPages::HttpPages(std::unique_ptr<Server> server) : server_(std::move(server)) {}

HttpPages::~HttpPages() = default;

int HttpPages::port() const { return server_->port(); }

}  // namespace facet
