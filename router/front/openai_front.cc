#include "router/front/openai_front.h"

#include <algorithm>
#include <array>
#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <optional>
#include <utility>
#include <variant>

#include "base/log.h"
#include "base/tcp_server.h"
#include "proto/grpc_status.h"
#include "router/front/openai_json.h"

namespace facet::router {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

std::string ToString(beast::string_view text) { return std::string(text.data(), text.size()); }

// The stream of one HTTP answer: wakes the connection's coroutine, on the front's thread.
class HttpAnswer final : public AnswerStream, public std::enable_shared_from_this<HttpAnswer> {
 public:
  HttpAnswer(asio::io_context& io, Router& router) : io_(io), wake_(io), router_(router) {
    wake_.expires_at(asio::steady_timer::time_point::max());
  }

  // Coroutine: the next event or the end, waiting for it if need be.
  asio::awaitable<std::variant<AnswerEvent, Status>> Take() {
    while (true) {
      std::optional<std::variant<AnswerEvent, Status>> next = Next();
      if (next.has_value()) co_return std::move(*next);
      // OnReadable comes as a posted handler of this thread, so it cannot slip in between.
      co_await wake_.async_wait(kAwait);
    }
  }

  void set_request_id(std::string request_id) { request_id_ = std::move(request_id); }

  const std::string& request_id() const { return request_id_; }

  void GoneAway() {
    MarkClientGone();
    if (!request_id_.empty()) router_.OnClientGone(request_id_);
  }

  // Tells the router when the client closes the connection while it waits for its answer.
  void WatchFor(tcp::socket& socket) {
    socket_ = &socket;
    socket.async_wait(tcp::socket::wait_read, [self = shared_from_this()](error_code error) {
      if (error || self->socket_ == nullptr) return;
      char byte = 0;
      error_code peek_error;
      self->socket_->non_blocking(true, peek_error);
      self->socket_->receive(asio::buffer(&byte, 1), tcp::socket::message_peek, peek_error);
      if (peek_error && peek_error != asio::error::would_block) self->GoneAway();
    });
  }

  void StopWatching() {
    if (socket_ == nullptr) return;
    error_code ignored;
    socket_->cancel(ignored);
    socket_ = nullptr;
  }

 private:
  void OnReadable() override {
    asio::post(io_, [self = shared_from_this()] { self->wake_.cancel(); });
  }

  asio::io_context& io_;
  asio::steady_timer wake_;
  Router& router_;
  std::string request_id_;
  tcp::socket* socket_ = nullptr;  // While it is watched.
};

// A caller's x-request-id, if it is fit to be echoed.
std::string CallerId(const http::request<http::string_body>& request) {
  const std::string id = ToString(request["x-request-id"]);
  const bool printable =
      std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c <= '~'; });
  return printable && id.size() <= 128 ? id : "";
}

}  // namespace

class OpenAiFront::Server {
 public:
  using Request = http::request<http::string_body>;
  using Response = http::response<http::string_body>;

  Server(Options options, const TenantDirectory& tenants, Router& router)
      : options_(std::move(options)),
        tenants_(tenants),
        router_(router),
        tcp_(options_.connections_max,
             [this](tcp::socket socket) { return Connection(std::move(socket)); }) {}

  Status Listen() { return tcp_.Listen(options_.address); }

  int port() const { return tcp_.port(); }

  void Shutdown(int64_t wait_ms_max) {
    tcp_.StopAccepting();
    asio::post(tcp_.io(), [this] { closing_ = true; });
    // Answers that were ended are short of one write; idle connections do not hold the end up.
    absl::MutexLock lock(&mutex_);
    const auto idle = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return answering_ == 0; };
    mutex_.AwaitWithTimeout(absl::Condition(&idle), absl::Milliseconds(wait_ms_max));
  }

  void Stop() { tcp_.Stop(); }

 private:
  asio::awaitable<void> Connection(tcp::socket socket) {
    beast::tcp_stream stream(std::move(socket));
    co_await Converse(stream);
  }

  // Requests of one connection, one after the other.
  asio::awaitable<void> Converse(beast::tcp_stream& stream) {
    beast::flat_buffer buffer;
    while (!closing_) {
      http::request_parser<http::string_body> parser;
      parser.header_limit(static_cast<uint32_t>(options_.header_bytes_max));
      parser.body_limit(static_cast<uint64_t>(options_.body_bytes_max));
      stream.expires_after(std::chrono::milliseconds(options_.request_ms_max));
      auto [header_error, header_bytes] =
          co_await http::async_read_header(stream, buffer, parser, kAwait);
      if (header_error) {
        co_await AnswerBadRead(stream, header_error);
        co_return;
      }
      StatusOr<std::string> tenant = TenantOf(parser.get());
      if (!tenant.ok()) {
        co_await Refuse(stream, parser.get(), tenant.status());
        co_return;
      }
      auto [error, bytes] = co_await http::async_read(stream, buffer, parser, kAwait);
      if (error) {
        co_await AnswerBadRead(stream, error);
        co_return;
      }
      const Request request = parser.release();
      SetAnswering(+1);
      const bool keep = co_await Answer(stream, request, std::move(*tenant));
      SetAnswering(-1);
      if (!keep) break;
    }
    error_code ignored;
    stream.socket().shutdown(tcp::socket::shutdown_send, ignored);
  }

  static std::string PathOf(const Request& request) {
    std::string target = ToString(request.target());
    return target.substr(0, target.find('?'));
  }

  // Whose request this is, by its header; UNAUTHENTICATED ends it. Health is anybody's.
  StatusOr<std::string> TenantOf(const Request& header) const {
    if (PathOf(header) == "/health") return std::string();
    const beast::string_view authorization = header[http::field::authorization];
    const beast::string_view x_api_key = header["x-api-key"];
    StatusOr<std::string> tenant = tenants_.TenantOf(ApiKeyOf(
        {authorization.data(), authorization.size()}, {x_api_key.data(), x_api_key.size()}));
    if (!tenant.ok()) router_.metrics().Write()->requests_unauthenticated.At("http").Add(1);
    return tenant;
  }

  // Answers without having read the body, which is why the connection ends.
  asio::awaitable<void> Refuse(beast::tcp_stream& stream, Request& header, const Status& status) {
    header.keep_alive(false);
    co_await SendError(stream, header, status);
    co_await ReadRest(stream);
  }

  asio::awaitable<void> AnswerBadRead(beast::tcp_stream& stream, error_code error) {
    Request none;
    none.version(11);
    none.keep_alive(false);
    if (error == http::error::body_limit) {
      const Status status = InvalidArgument("the body is too long; at most ",
                                            options_.body_bytes_max, " bytes are read");
      co_await Send(stream, none, 413, ErrorBody(status));
    } else if (error == http::error::header_limit) {
      const Status status = InvalidArgument("the header is too long; at most ",
                                            options_.header_bytes_max, " bytes are read");
      co_await Send(stream, none, 431, ErrorBody(status));
    } else if (error.category() == http::make_error_code(http::error::bad_method).category() &&
               error != http::error::end_of_stream && error != http::error::partial_message) {
      co_await Send(
          stream, none, 400,
          ErrorBody(InvalidArgument("not a well-formed HTTP request: ", error.message())));
    }
    co_await ReadRest(stream);
  }

  // Closing with bytes unread would reset the connection, and the client that still sends would
  // never read its answer. Bounded in time and size.
  asio::awaitable<void> ReadRest(beast::tcp_stream& stream) {
    error_code ignored;
    stream.socket().shutdown(tcp::socket::shutdown_send, ignored);
    stream.expires_after(std::chrono::seconds(2));
    std::array<char, 16 << 10> rest{};
    for (int64_t left = 64 << 20; left > 0;) {
      auto [error, bytes] = co_await stream.async_read_some(asio::buffer(rest), kAwait);
      if (error) co_return;
      left -= static_cast<int64_t>(bytes);
    }
  }

  // True if the connection can take another request.
  asio::awaitable<bool> Answer(beast::tcp_stream& stream,
                               const Request& request,
                               std::string tenant) {
    const std::string target = PathOf(request);
    const bool is_get = request.method() == http::verb::get;
    if (target == "/v1/chat/completions") {
      if (request.method() == http::verb::post) {
        const bool keep = co_await Chat(stream, request, std::move(tenant));
        co_return keep;
      }
    } else if (target == "/health" || target == "/v1/models" || target.starts_with("/v1/models/")) {
      if (is_get) {
        const bool keep = co_await AnswerGet(stream, request, target);
        co_return keep;
      }
    } else {
      const Status status = NotFound("nothing is at ", target.size() <= 256 ? target : "this path",
                                     "; there are /v1/chat/completions, /v1/models and /health");
      const bool keep = co_await SendError(stream, request, status);
      co_return keep;
    }
    const bool keep =
        co_await Send(stream, request, 405,
                      ErrorBody(InvalidArgument("method ", ToString(request.method_string()),
                                                " is not served at ", target)));
    co_return keep;
  }

  asio::awaitable<bool> AnswerGet(beast::tcp_stream& stream,
                                  const Request& request,
                                  const std::string& target) {
    const v1::ListModelsResponse models = router_.ListModels();
    const int64_t created_s = router_.clock().UnixNs() / 1'000'000'000;
    int code = 200;
    std::string body;
    if (target == "/health") {
      const bool ready =
          !router_.draining() &&
          std::any_of(models.models().begin(), models.models().end(),
                      [](const v1::ModelInfo& it) { return it.workers_ready() > 0; });
      code = ready ? 200 : 503;
      body = ready ? R"({"status":"ok"})" : R"({"status":"no worker is ready"})";
    } else if (target == "/v1/models") {
      body = ModelsBody(models, created_s);
    } else {
      const std::string name = target.substr(std::string_view("/v1/models/").size());
      const StatusOr<const ServedModel*> model = FindModel(name, router_.models());
      if (!model.ok() || name.empty()) {
        const Status status = model.ok() ? NotFound("no model is named") : model.status();
        const bool keep = co_await SendError(stream, request, status);
        co_return keep;
      }
      for (const v1::ModelInfo& info : models.models()) {
        if (info.name() == name) body = ModelBody(info, created_s);
      }
    }
    const bool keep = co_await Send(stream, request, code, std::move(body));
    co_return keep;
  }

  asio::awaitable<bool> Chat(beast::tcp_stream& stream,
                             const Request& request,
                             std::string tenant) {
    StatusOr<OpenAiRequest> parsed = ParseChatCompletion(request.body());
    if (!parsed.ok()) {
      const bool keep = co_await SendError(stream, request, parsed.status());
      co_return keep;
    }
    parsed->request.tenant = std::move(tenant);
    parsed->request.arrival_ns = router_.clock().NowNs();
    const StatusOr<const ServedModel*> model = FindModel(parsed->request.model, router_.models());
    const Tokenizer* tokenizer =
        model.ok() && (*model)->tokenizer.has_value() ? &*(*model)->tokenizer : nullptr;
    const bool as_stream = parsed->stream;
    const bool include_usage = parsed->include_usage;
    const bool logprobs = parsed->logprobs;
    auto answer = std::make_shared<HttpAnswer>(tcp_.io(), router_);
    answer->set_request_id(router_.Accept(std::move(parsed->request), answer));
    answer->WatchFor(stream.socket());
    OpenAiAnswer json(answer->request_id(), router_.clock().UnixNs() / 1'000'000'000, logprobs,
                      tokenizer);
    bool keep = false;
    if (as_stream) {
      keep = co_await StreamAnswer(stream, request, *answer, json, include_usage);
    } else {
      keep = co_await WholeAnswer(stream, request, *answer, json);
    }
    answer->StopWatching();
    co_return keep;
  }

  asio::awaitable<bool> WholeAnswer(beast::tcp_stream& stream,
                                    const Request& request,
                                    HttpAnswer& answer,
                                    OpenAiAnswer& json) {
    stream.expires_never();
    while (true) {
      std::variant<AnswerEvent, Status> next = co_await answer.Take();
      if (const auto* event = std::get_if<AnswerEvent>(&next)) {
        json.Collect(*event);
        continue;
      }
      answer.StopWatching();
      const Status& status = std::get<Status>(next);
      if (!status.ok()) {
        const bool keep = co_await SendError(stream, request, status);
        co_return keep;
      }
      const bool keep = co_await Send(stream, request, 200, json.Completion());
      co_return keep;
    }
  }

  // The header goes out with the first event, so that an error before it has its HTTP status.
  asio::awaitable<bool> StreamAnswer(beast::tcp_stream& stream,
                                     const Request& request,
                                     HttpAnswer& answer,
                                     OpenAiAnswer& json,
                                     bool include_usage) {
    stream.expires_never();
    std::optional<std::variant<AnswerEvent, Status>> next = co_await answer.Take();
    if (const auto* status = std::get_if<Status>(&*next)) {
      answer.StopWatching();
      const bool keep = co_await SendError(stream, request, *status);
      co_return keep;
    }
    http::response<http::empty_body> header{http::status::ok, request.version()};
    SetCommonFields(header, request);
    header.set(http::field::content_type, "text/event-stream; charset=utf-8");
    header.set(http::field::cache_control, "no-cache");
    header.chunked(true);
    http::response_serializer<http::empty_body> serializer(header);
    stream.expires_after(std::chrono::milliseconds(options_.write_ms_max));
    auto [header_error, header_bytes] =
        co_await http::async_write_header(stream, serializer, kAwait);
    bool writable = !header_error;
    bool ended = false;
    while (!ended) {
      // All that is there goes out in one write.
      std::string events;
      while (next.has_value() && !ended) {
        ended = AppendEvent(*next, json, include_usage, events);
        if (!ended) next = answer.Next();
      }
      if (writable && !events.empty()) {
        stream.expires_after(std::chrono::milliseconds(options_.write_ms_max));
        auto [error, bytes] = co_await asio::async_write(
            stream, http::make_chunk(asio::const_buffer(events.data(), events.size())), kAwait);
        stream.expires_never();
        if (error) {
          writable = false;
          answer.GoneAway();  // The request still ends, with nobody to hear it.
        }
      }
      if (!ended) next = co_await answer.Take();
    }
    answer.StopWatching();
    if (!writable) co_return false;
    stream.expires_after(std::chrono::milliseconds(options_.write_ms_max));
    auto [error, bytes] = co_await asio::async_write(stream, http::make_chunk_last(), kAwait);
    co_return !error && request.keep_alive();
  }

  // True if it was the end.
  static bool AppendEvent(const std::variant<AnswerEvent, Status>& next,
                          OpenAiAnswer& json,
                          bool include_usage,
                          std::string& events) {
    const auto append = [&events](const std::string& text) { events += "data: " + text + "\n\n"; };
    if (const auto* event = std::get_if<AnswerEvent>(&next)) {
      if (const std::optional<std::string> chunk = json.Chunk(*event)) append(*chunk);
      if (event->has_finished() && include_usage) append(json.UsageChunk());
      return false;
    }
    const Status& status = std::get<Status>(next);
    if (!status.ok()) append(ErrorBody(status));
    append("[DONE]");
    return true;
  }

  template <typename AnyResponse>
  static void SetCommonFields(AnyResponse& response, const Request& request) {
    response.set(http::field::server, "facet");
    if (const std::string id = CallerId(request); !id.empty()) response.set("x-request-id", id);
    response.keep_alive(request.keep_alive());
  }

  asio::awaitable<bool> SendError(beast::tcp_stream& stream,
                                  const Request& request,
                                  const Status& status) {
    Response response;
    if (const std::optional<int64_t> retry_ms = RetryAfterMsOf(status)) {
      response.set(http::field::retry_after, std::to_string((*retry_ms + 999) / 1000));
      response.set("retry-after-ms", std::to_string(*retry_ms));
    }
    if (absl::IsUnauthenticated(status)) response.set(http::field::www_authenticate, "Bearer");
    const bool keep = co_await SendResponse(stream, request, HttpStatusOf(status),
                                            ErrorBody(status), std::move(response));
    co_return keep;
  }

  asio::awaitable<bool> Send(beast::tcp_stream& stream,
                             const Request& request,
                             int code,
                             std::string body) {
    Response response;
    const bool keep =
        co_await SendResponse(stream, request, code, std::move(body), std::move(response));
    co_return keep;
  }

  asio::awaitable<bool> SendResponse(beast::tcp_stream& stream,
                                     const Request& request,
                                     int code,
                                     std::string body,
                                     Response response) {
    response.version(request.version());
    response.result(static_cast<unsigned>(code));
    if (code == 499) response.reason("Client Closed Request");
    SetCommonFields(response, request);
    response.set(http::field::content_type, "application/json");
    response.body() = std::move(body);
    response.prepare_payload();
    stream.expires_after(std::chrono::milliseconds(options_.write_ms_max));
    auto [error, bytes] = co_await http::async_write(stream, response, kAwait);
    co_return !error && response.keep_alive();
  }

  void SetAnswering(int change) {
    absl::MutexLock lock(&mutex_);
    answering_ += change;
  }

  const Options options_;
  const TenantDirectory& tenants_;
  Router& router_;
  bool closing_ = false;  // Of the front's thread.
  absl::Mutex mutex_;
  int answering_ ABSL_GUARDED_BY(mutex_) = 0;  // Requests read and not fully answered.
  TcpServer tcp_;                              // Last: its thread uses the rest.
};

StatusOr<std::unique_ptr<OpenAiFront>> OpenAiFront::Start(const Options& options,
                                                          const TenantDirectory& tenants,
                                                          Router& router) {
  auto server = std::make_unique<Server>(options, tenants, router);
  FACET_RETURN_IF_ERROR(server->Listen());
  return std::unique_ptr<OpenAiFront>(new OpenAiFront(std::move(server)));
}

OpenAiFront::OpenAiFront(std::unique_ptr<Server> server) : server_(std::move(server)) {}

OpenAiFront::~OpenAiFront() = default;

int OpenAiFront::port() const { return server_->port(); }

void OpenAiFront::Shutdown(int64_t wait_ms_max) {
  server_->Shutdown(wait_ms_max);
  server_->Stop();
}

}  // namespace facet::router
