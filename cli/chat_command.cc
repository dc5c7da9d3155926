#include "cli/chat_command.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <iostream>
#include <memory>
#include <thread>

#include "cli/answer.h"
#include "cli/client.h"
#include "cli/json_lines.h"
#include "cli/terminal.h"

namespace facet {
namespace {

struct ChatOptions {
  ClientOptions client;
  std::string model;
  std::string system;
  bool think = false;
  SamplingFlags sampling;
};

constexpr int kExitInterrupted = 130;  // 128 + SIGINT, as shells have it.

// From construction on Ctrl-C ends the call under way, or the process if there is none. Made before
// any other thread, so that SIGINT is blocked in all of them.
class InterruptThread {
 public:
  InterruptThread() : client_(std::make_shared<std::atomic<Client*>>(nullptr)) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    std::thread([set, client = client_] {
      while (true) {
        int signal = 0;
        sigwait(&set, &signal);
        Client* const current = client->load();
        if (current != nullptr && current->Cancel()) continue;
        (void)!write(STDOUT_FILENO, "\n", 1);
        _exit(kExitInterrupted);
      }
    }).detach();  // It ends with the process.
  }

  ~InterruptThread() { client_->store(nullptr); }

  InterruptThread(const InterruptThread&) = delete;
  InterruptThread& operator=(const InterruptThread&) = delete;

  // The client whose calls Ctrl-C ends; it must outlive this object.
  void Watch(Client& client) { client_->store(&client); }

 private:
  const std::shared_ptr<std::atomic<Client*>> client_;
};

// Answer text goes to standard output; thoughts go there too, dimmed, on a terminal, and else to
// standard error, so that a pipe gets the answer alone.
class AnswerPrinter {
 public:
  explicit AnswerPrinter(const Paint& paint) : paint_(paint) {}

  void Print(const v1::ChatResponse& event) {
    if (event.has_thought()) PrintThought(event.thought().text());
    if (event.has_text()) PrintText(event.text().text());
    if (event.has_tool_call()) PrintText(StrCat("[calls ", event.tool_call().name(), "]"));
  }

  void EndAnswer() {
    if (thinking_) EndThought();
    if (!at_line_start_) std::cout << '\n';
    at_line_start_ = true;
    std::cout.flush();
  }

 private:
  void PrintThought(const std::string& text) {
    if (text.empty()) return;
    thinking_ = true;
    if (paint_.enabled()) {
      std::cout << paint_(Colour::kDim, text) << std::flush;
    } else {
      std::cerr << text << std::flush;
    }
  }

  void EndThought() {
    thinking_ = false;
    (paint_.enabled() ? std::cout : std::cerr) << '\n';
  }

  void PrintText(const std::string& text) {
    if (text.empty()) return;
    if (thinking_) EndThought();
    std::cout << text << std::flush;
    at_line_start_ = text.back() == '\n';
  }

  const Paint paint_;
  bool thinking_ = false;
  bool at_line_start_ = true;
};

class Conversation {
 public:
  Conversation(const ChatOptions& options, std::string model, Client& client)
      : options_(options), model_(std::move(model)), client_(client) {
    Clear();
  }

  void Clear() {
    request_.Clear();
    request_.set_model(model_);
    request_.set_enable_thinking(options_.think);
    *request_.mutable_sampling() = options_.sampling.Sampling();
    *request_.mutable_limits() = options_.sampling.Limits();
    if (!options_.system.empty()) Append("system", options_.system);
  }

  // Prints the answer as it comes and keeps it. What an interrupt leaves of it is kept as well; a
  // turn that failed is forgotten.
  Status Turn(const std::string& line) {
    Append("user", line);
    Answer answer;
    AnswerPrinter printer(Paint::ForDescriptor(STDOUT_FILENO));
    const Status status = client_.Chat(request_, [&](const v1::ChatResponse& event) {
      answer.Add(event);
      printer.Print(event);
    });
    printer.EndAnswer();
    const bool interrupted = absl::IsCancelled(status);
    if (status.ok() || (interrupted && !answer.text().empty())) {
      v1::Message& message = Append("assistant", answer.text());
      if (!answer.thought().empty()) message.set_reasoning(answer.thought());
    } else {
      request_.mutable_messages()->RemoveLast();
    }
    const Paint dim = Paint::ForDescriptor(STDERR_FILENO);
    if (status.ok()) std::cerr << dim(Colour::kDim, answer.Summary()) << '\n';
    if (interrupted) std::cerr << dim(Colour::kDim, "stopped") << '\n';
    return interrupted ? absl::OkStatus() : status;
  }

 private:
  v1::Message& Append(const char* role, const std::string& content) {
    v1::Message& message = *request_.add_messages();
    message.set_role(role);
    message.set_content(content);
    return message;
  }

  const ChatOptions& options_;
  const std::string model_;
  Client& client_;
  v1::ChatRequest request_;
};

// The model asked for, or the first that is ready; `others` lists the rest.
StatusOr<std::string> ChooseModel(Client& client, const std::string& wanted, std::string& others) {
  FACET_ASSIGN_OR_RETURN(const v1::ListModelsResponse models, client.ListModels());
  std::string chosen;
  std::string known;
  for (const v1::ModelInfo& model : models.models()) {
    known += StrCat(known.empty() ? "" : ", ", model.name());
    const bool fits =
        wanted.empty() ? chosen.empty() && model.workers_ready() > 0 : model.name() == wanted;
    if (fits) {
      chosen = model.name();
    } else {
      others += StrCat(others.empty() ? "" : ", ", model.name());
    }
  }
  if (!chosen.empty()) return chosen;
  if (wanted.empty()) return Unavailable("no model has a ready worker; served are ", known);
  return NotFound("--model is ", wanted, "; served are ", known);
}

Status RunChat(const ChatOptions& options) {
  std::unique_ptr<Client> client;  // Outlives the thread's use of it.
  InterruptThread interrupts;
  client = std::make_unique<Client>(options.client);
  interrupts.Watch(*client);
  std::string others;
  FACET_ASSIGN_OR_RETURN(const std::string model, ChooseModel(*client, options.model, others));
  const bool interactive = isatty(STDIN_FILENO) != 0;
  const Paint paint = Paint::ForDescriptor(STDOUT_FILENO);
  if (interactive) {
    std::cout << paint(Colour::kBold, model)
              << (others.empty() ? ""
                                 : StrCat("  (also served: ", others, "; choose with --model)"))
              << '\n'
              << paint(Colour::kDim, "/clear begins anew, /exit ends, Ctrl-C stops an answer")
              << '\n';
  }
  Conversation conversation(options, model, *client);
  while (true) {
    if (interactive) std::cout << paint(Colour::kCyan, "> ") << std::flush;
    std::string line;
    if (!std::getline(std::cin, line)) break;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (line == "/exit") break;
    if (line == "/clear") {
      conversation.Clear();
      continue;
    }
    Status status = conversation.Turn(line);
    if (!status.ok() && !interactive) return status;
    if (!status.ok()) std::cerr << "facet chat: " << MessageOf(status) << '\n';
  }
  if (interactive && !std::cin.good()) std::cout << '\n';
  return absl::OkStatus();
}

}  // namespace

void AddChatCommand(CLI::App& app) {
  const auto options = std::make_shared<ChatOptions>();
  CLI::App* command = app.add_subcommand("chat", "Talk with a served model, line by line");
  command->add_option("--model", options->model,
                      "Name of a served model (default: the first ready)");
  command->add_option("--system", options->system, "What the model is told before anything else");
  command->add_flag("--think", options->think, "Let the model think before it answers");
  options->sampling.AddTo(*command);
  command->add_option("--address", options->client.address, "The router's gRPC address")
      ->capture_default_str();
  options->client.AddIdentityTo(*command);
  command->footer(
      "Lines of a pipe are turns of one conversation; TTFT, speed and cost go to standard error.\n"
      "Example: echo 'Hello!' | facet chat --model facet-demo-e4b");
  command->callback([options] { ExitOnError("chat", RunChat(*options)); });
}

}  // namespace facet
