#include "cli/local_cluster.h"

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "base/clock.h"
#include "proto/cluster_status.h"

namespace facet {
namespace {

constexpr char kRouterName[] = "router";
constexpr int kReadinessIntervalMs = 200;
constexpr int64_t kStatusTimeoutMs = 500;
constexpr int64_t kSpareMs = 2'000;  // Beyond the drain limit of a process, for its end.
constexpr int64_t kNsPerMs = 1'000'000;
constexpr int64_t kNsPerSecond = 1'000'000'000;
constexpr int64_t kSettledNs = 60 * kNsPerSecond;  // A worker that lived so long is sound.
constexpr int kDoublingsMax = 5;                   // Of the delay before it is started again.

constexpr std::array<Colour, 5> kNameColours = {Colour::kCyan, Colour::kGreen, Colour::kMagenta,
                                                Colour::kYellow, Colour::kBlue};

sigset_t SupervisedSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&set, signal);
  return set;
}

// host:0 becomes host:port.
std::string WithPort(const std::string& address, int port) {
  return StrCat(address.substr(0, address.rfind(':') + 1), port);
}

}  // namespace

LocalCluster::LocalCluster(LocalClusterOptions options,
                           v1::ClusterConfig config,
                           const Paint& paint)
    : options_(std::move(options)), config_(std::move(config)), paint_(paint) {
  // Blocked, they wait in the descriptor until the poll loop reads them.
  const sigset_t set = SupervisedSignals();
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signals_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  // At these levels the router does not say that it listens.
  router_listens_ = options_.log_level == "warning" || options_.log_level == "error";
}

LocalCluster::~LocalCluster() {
  children_.clear();
  if (signals_ >= 0) close(signals_);
}

bool LocalCluster::IsRouter(const ChildProcess& child) const {
  return &child == children_.front().get();
}

std::vector<std::string> LocalCluster::RouterCommand() const {
  return {options_.program_directory + "/facet-router", "--config", options_.config_file,
          "--log-level", options_.log_level};
}

std::vector<std::string> LocalCluster::WorkerCommand(const v1::PoolConfig& pool, int index) const {
  return {options_.program_directory + "/facet-worker",
          "--config",
          options_.config_file,
          "--pool",
          pool.name(),
          "--index",
          std::to_string(index),
          "--log-level",
          options_.log_level};
}

// Ranks on one machine share a secret that nobody else has, unless the user has set one.
void LocalCluster::ProvideGroupKey() const {
  std::random_device device;
  std::string key;
  for (int i = 0; i < 8; ++i) key += StrCat(std::hex, device(), "-");
  setenv("FACET_GROUP_KEY", key.c_str(), /*replace=*/0);
}

Status LocalCluster::Start() {
  ProvideGroupKey();
  if (signals_ < 0) return Unavailable("no descriptor for signals is left");
  if (!config_.tenants_file().empty() && options_.client.api_key.empty()) {
    return InvalidArgument(
        "the config has a tenants_file, so asking the router whether all are ready needs a "
        "tenant's key: set FACET_API_KEY");
  }
  std::vector<std::pair<std::string, std::vector<std::string>>> commands;
  commands.emplace_back(kRouterName, RouterCommand());
  for (const v1::PoolConfig& pool : config_.pools()) {
    for (int index = 0; index < pool.workers_size(); ++index) {
      commands.emplace_back(StrCat(pool.name(), "/", index), WorkerCommand(pool, index));
    }
  }
  for (const auto& [name, arguments] : commands) name_width_ = std::max(name_width_, name.size());
  for (const auto& [name, arguments] : commands) {
    FACET_ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::Start(name, arguments));
    children_.push_back(std::make_unique<ChildProcess>(std::move(child)));
    lives_.push_back({.arguments = arguments, .started_ns = Clock::Real().NowNs()});
  }
  return absl::OkStatus();
}

Status LocalCluster::Supervise() {
  while (true) {
    const bool restarts = std::any_of(lives_.begin(), lives_.end(),
                                      [](const Life& life) { return life.restart_ns != 0; });
    if (Poll(all_ready_ && !restarts ? -1 : kReadinessIntervalMs)) return absl::OkStatus();
    FACET_RETURN_IF_ERROR(CheckEnded());
    FACET_RETURN_IF_ERROR(RestartDue());
    if (!all_ready_) FACET_RETURN_IF_ERROR(CheckReadiness());
  }
}

bool LocalCluster::Poll(int timeout_ms) {
  std::vector<pollfd> descriptors = {{.fd = signals_, .events = POLLIN}};
  for (const auto& child : children_) {
    // A negative descriptor is skipped.
    descriptors.push_back({.fd = child->output(), .events = POLLIN});
  }
  if (poll(descriptors.data(), descriptors.size(), timeout_ms) <= 0) return false;
  for (size_t i = 0; i < children_.size(); ++i) {
    if (descriptors[i + 1].revents == 0) continue;
    children_[i]->ReadLines([this](const auto& child, auto line) { OnLine(child, line); });
  }
  return descriptors[0].revents != 0 && ReadSignals();
}

bool LocalCluster::ReadSignals() {
  bool end = false;
  signalfd_siginfo info{};
  while (read(signals_, &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo != SIGCHLD) end = true;
  }
  return end;
}

void LocalCluster::OnLine(const ChildProcess& child, std::string_view line) {
  size_t index = 0;
  while (index + 1 < children_.size() && children_[index].get() != &child) ++index;
  const std::string padded = child.name() + std::string(name_width_ - child.name().size(), ' ');
  std::cerr << paint_(kNameColours[index % kNameColours.size()], padded + " |") << ' ' << line
            << '\n';
  if (!IsRouter(child) || all_ready_ || line.find("router listens") == line.npos) return;
  const auto event = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!event.is_object() || event.value("event", nlohmann::json()) != "router listens") return;
  router_listens_ = true;
  // Port 0 in the config is any free one; the line says which.
  v1::RouterConfig& router = *config_.mutable_router();
  const auto port = [&event](const char* key) {
    const auto found = event.find(key);
    return found != event.end() && found->is_number_integer() ? found->get<int>() : 0;
  };
  if (port("grpc_port") > 0) {
    router.set_grpc_address(WithPort(router.grpc_address(), port("grpc_port")));
  }
  if (port("http_port") > 0 && router.http_address() != "off") {
    router.set_http_address(WithPort(router.http_address(), port("http_port")));
  }
  if (port("metrics_port") > 0 && router.metrics_address() != "off") {
    router.set_metrics_address(WithPort(router.metrics_address(), port("metrics_port")));
  }
}

std::vector<const ChildProcess*> LocalCluster::ReapAll() {
  std::vector<const ChildProcess*> ended;
  for (const auto& child : children_) {
    if (child->Reap([this](const auto& who, auto line) { OnLine(who, line); })) {
      ended.push_back(child.get());
    }
  }
  return ended;
}

Status LocalCluster::CheckEnded() {
  for (const ChildProcess* child : ReapAll()) {
    const std::string words =
        child->last_words().empty() ? "" : StrCat("; it said: ", child->last_words());
    if (!all_ready_) {
      return Unavailable(child->name(), " ended with ", child->EndText(),
                         " before the cluster was ready", words);
    }
    if (IsRouter(*child)) {
      return Unavailable("the router ended with ", child->EndText(),
                         ", and nothing can be served without it", words);
    }
    const auto left = std::count_if(children_.begin() + 1, children_.end(),
                                    [](const auto& other) { return other->running(); });
    const int64_t delay_s = PlanRestart(*child);
    Say(StrCat("worker ", child->name(), " ended with ", child->EndText(), "; ", left, " of ",
               children_.size() - 1, " workers go on, and it is started again in ", delay_s, " s",
               words));
  }
  return absl::OkStatus();
}

int64_t LocalCluster::PlanRestart(const ChildProcess& child) {
  Life& life = LifeOf(child);
  const int64_t now_ns = Clock::Real().NowNs();
  const bool soon = now_ns - life.started_ns < kSettledNs;
  life.early_ends = soon ? std::min(life.early_ends + 1, kDoublingsMax) : 0;
  const int64_t delay_s = int64_t{1} << life.early_ends;
  life.restart_ns = now_ns + delay_s * kNsPerSecond;
  return delay_s;
}

Status LocalCluster::RestartDue() {
  const int64_t now_ns = Clock::Real().NowNs();
  for (size_t i = 0; i < children_.size(); ++i) {
    Life& life = lives_[i];
    if (life.restart_ns == 0 || now_ns < life.restart_ns) continue;
    life.restart_ns = 0;
    life.started_ns = now_ns;
    const std::string name = children_[i]->name();
    FACET_ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::Start(name, life.arguments));
    children_[i] = std::make_unique<ChildProcess>(std::move(child));
  }
  return absl::OkStatus();
}

LocalCluster::Life& LocalCluster::LifeOf(const ChildProcess& child) {
  size_t i = 0;
  while (children_[i].get() != &child) ++i;
  return lives_[i];
}

Status LocalCluster::CheckReadiness() {
  if (!router_listens_) return absl::OkStatus();
  if (client_ == nullptr) {
    ClientOptions client = options_.client;
    client.address = config_.router().grpc_address();
    client_ = std::make_unique<Client>(client);
  }
  const StatusOr<v1::GetStatusResponse> status = client_->GetStatus(kStatusTimeoutMs);
  if (absl::IsUnauthenticated(status.status())) return status.status();
  if (!status.ok()) return absl::OkStatus();  // Not yet: its end would be noticed.
  for (const v1::WorkerStatus& worker : status->workers()) {
    if (worker.state() == v1::WORKER_STATE_MISMATCH) {
      return FailedPrecondition("the router refuses worker ", worker.pool(), "/", worker.index(),
                                ": ", worker.reason());
    }
  }
  if (!CheckReady(*status).ok()) return absl::OkStatus();
  all_ready_ = true;
  PrintBanner();
  return absl::OkStatus();
}

void LocalCluster::PrintBanner() const {
  const v1::RouterConfig& router = config_.router();
  const std::string address_flag =
      router.grpc_address() == kDefaultAddress ? "" : StrCat(" --address ", router.grpc_address());
  const auto line = [this](const char* title, const std::string& text) {
    std::cout << "  " << paint_(Colour::kDim, title) << text << '\n';
  };
  std::cout << '\n'
            << paint_(Colour::kBold,
                      StrCat("Cluster ", config_.name(), " is ready: ", children_.size() - 1,
                             " of ", children_.size() - 1, " workers."))
            << '\n';
  line("gRPC     ", router.grpc_address());
  if (router.http_address() != "off") {
    line("HTTP     ", StrCat("http://", router.http_address(), "/v1/chat/completions"));
  }
  if (router.metrics_address() != "off") {
    line("metrics  ", StrCat("http://", router.metrics_address(), "/metrics"));
  }
  for (const v1::ModelConfig& model : config_.models()) {
    line("chat     ", StrCat("facet chat --model ", model.name(), address_flag));
  }
  line("status   ", StrCat("facet status", address_flag));
  line("stop     ", "Ctrl-C");
  std::cout << std::endl;
}

void LocalCluster::Say(std::string_view sentence) const {
  std::cerr << paint_(Colour::kBold, "facet up:") << ' ' << sentence << '\n';
}

void LocalCluster::Stop() {
  client_.reset();
  if (children_.empty()) return;
  Say("stopping; once more Ctrl-C kills");
  int64_t worker_wait_ms = 0;
  for (const v1::PoolConfig& pool : config_.pools()) {
    worker_wait_ms = std::max(worker_wait_ms, pool.drain_ms_max());
  }
  End(/*router=*/true, config_.router().drain_ms_max() + kSpareMs);
  End(/*router=*/false, worker_wait_ms + kSpareMs);
  Say("stopped");
}

void LocalCluster::End(bool router, int64_t wait_ms) {
  const auto concerned = [&](const ChildProcess& child) {
    return child.running() && IsRouter(child) == router;
  };
  const auto any = [&] {
    return std::any_of(children_.begin(), children_.end(),
                       [&](const auto& child) { return concerned(*child); });
  };
  for (const auto& child : children_) {
    if (concerned(*child)) child->Send(SIGTERM);
  }
  const int64_t end_ns = Clock::Real().NowNs() + wait_ms * kNsPerMs;
  while (any()) {
    const int64_t left_ms = (end_ns - Clock::Real().NowNs()) / kNsPerMs;
    if (hurry_ || left_ms <= 0) break;
    if (Poll(static_cast<int>(std::min<int64_t>(left_ms, 1000)))) hurry_ = true;
    ReapAll();
  }
  for (const auto& child : children_) {
    if (!concerned(*child)) continue;
    Say(StrCat(child->name(), " did not end in time and is killed"));
    child->Send(SIGKILL);
  }
  while (any()) {  // SIGKILL cannot be refused.
    (void)Poll(kReadinessIntervalMs);
    ReapAll();
  }
}

}  // namespace facet
