// The commands' side of facet.v1.InferenceService: the only file of cli/ that includes gRPC.
//
// Calls block. One call runs at a time; Cancel may come from any thread and ends the call under
// way.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "facet/v1/inference.pb.h"

namespace CLI {
class App;
}

namespace facet {

inline constexpr char kDefaultAddress[] = "127.0.0.1:7070";

// Where a router is and who asks.
struct ClientOptions {
  std::string address = kDefaultAddress;
  std::string api_key;  // Of a tenant; empty: none is sent.
  std::string
      tls_ca;  // PEM file of the CA that signed the router's certificate; empty: plain text.

  // Adds --api-key and --tls-ca, which can also stand in the environment.
  void AddIdentityTo(CLI::App& command);
};

class Client {
 public:
  // Does not connect yet: the first call does.
  explicit Client(const ClientOptions& options);
  ~Client();

  // UNAVAILABLE names the address and says how to start a router; UNAUTHENTICATED how to name a
  // key.
  Status Chat(const v1::ChatRequest& request,
              const std::function<void(const v1::ChatResponse&)>& on_event);
  Status Generate(const v1::GenerateRequest& request,
                  const std::function<void(const v1::GenerateResponse&)>& on_event);
  StatusOr<v1::ListModelsResponse> ListModels();
  StatusOr<v1::GetStatusResponse> GetStatus(int64_t timeout_ms);

  // The call under way returns CANCELLED. False if there is none.
  bool Cancel();

 private:
  struct Connection;

  const ClientOptions options_;
  const std::unique_ptr<Connection> connection_;
};

}  // namespace facet
