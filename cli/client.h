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

namespace facet {

inline constexpr char kDefaultAddress[] = "127.0.0.1:7070";

class Client {
 public:
  // Does not connect yet: the first call does.
  explicit Client(const std::string& address);
  ~Client();

  // UNAVAILABLE names the address and says how to start a router.
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

  const std::string address_;
  const std::unique_ptr<Connection> connection_;
};

}  // namespace facet
