#include "base/metrics.h"

#include <netdb.h>
#include <prometheus/exposer.h>
#include <prometheus/text_serializer.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <thread>

#include "absl/synchronization/notification.h"

namespace facet {
namespace {

// Lends a page to the library, which asks for a shared owner.
class LentPage final : public prometheus::Collectable {
 public:
  explicit LentPage(const prometheus::Collectable& page) : page_(page) {}

  std::vector<prometheus::MetricFamily> Collect() const override { return page_.Collect(); }

 private:
  const prometheus::Collectable& page_;
};

// What /livez answers with: nothing, but it answers.
class EmptyPage final : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override { return {}; }
};

// "host:port", "[host]:port" or "port" without the port; empty if there is no host.
std::string HostOf(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return "";
  std::string host = address.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  return host;
}

// Opens a connection to a listening port of this machine and closes it. Best effort.
void Knock(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  // Without a host it is this machine, and so are 0.0.0.0 and :: when connected to.
  if (getaddrinfo(host.empty() ? nullptr : host.c_str(), std::to_string(port).c_str(), &hints,
                  &found) != 0) {
    return;
  }
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd >= 0) {
    (void)connect(fd, found->ai_addr, found->ai_addrlen);
    close(fd);
  }
  freeaddrinfo(found);
}

}  // namespace

void Histogram::Observe(double value) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  ++counts_[static_cast<size_t>(bucket - bounds_.begin())];
  ++count_;
  sum_ += value;
}

template <typename CellType>
prometheus::MetricFamily MetricCells<CellType>::LabelledFamily(prometheus::MetricType type) const {
  prometheus::MetricFamily family;
  family.name = name_;
  family.help = help_;
  family.type = type;
  for (const auto& [values, cell] : cells_) {
    prometheus::ClientMetric& metric = family.metric.emplace_back();
    for (size_t i = 0; i < labels_.size(); ++i) metric.label.push_back({labels_[i], values[i]});
  }
  return family;
}

void CounterFamily::CollectInto(std::vector<prometheus::MetricFamily>& out) const {
  prometheus::MetricFamily family = LabelledFamily(prometheus::MetricType::Counter);
  size_t i = 0;
  for (const auto& [values, cell] : cells()) {
    family.metric[i++].counter.value = static_cast<double>(cell.value()) * scale_;
  }
  out.push_back(std::move(family));
}

void GaugeFamily::CollectInto(std::vector<prometheus::MetricFamily>& out) const {
  prometheus::MetricFamily family = LabelledFamily(prometheus::MetricType::Gauge);
  size_t i = 0;
  for (const auto& [values, cell] : cells()) family.metric[i++].gauge.value = cell.value();
  out.push_back(std::move(family));
}

void HistogramFamily::CollectInto(std::vector<prometheus::MetricFamily>& out) const {
  prometheus::MetricFamily family = LabelledFamily(prometheus::MetricType::Histogram);
  size_t i = 0;
  for (const auto& [values, cell] : cells()) {
    prometheus::ClientMetric::Histogram& histogram = family.metric[i++].histogram;
    histogram.sample_count = cell.count();
    histogram.sample_sum = cell.sum();
    uint64_t cumulative = 0;
    for (size_t bucket = 0; bucket < cell.counts().size(); ++bucket) {
      cumulative += cell.counts()[bucket];
      const double bound = bucket < cell.bounds().size() ? cell.bounds()[bucket]
                                                         : std::numeric_limits<double>::infinity();
      histogram.bucket.push_back({cumulative, bound});
    }
  }
  out.push_back(std::move(family));
}

std::string MetricsText(const prometheus::Collectable& page) {
  return prometheus::TextSerializer().Serialize(page.Collect());
}

StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& address,
                                                              const prometheus::Collectable& page) {
  try {
    auto exposer = std::make_unique<prometheus::Exposer>(address, /*num_threads=*/1);
    auto lent = std::make_shared<LentPage>(page);
    exposer->RegisterCollectable(lent);
    auto empty = std::make_shared<EmptyPage>();
    exposer->RegisterCollectable(empty, "/livez");
    return std::unique_ptr<MetricsServer>(new MetricsServer(HostOf(address), std::move(exposer),
                                                            {std::move(lent), std::move(empty)}));
  } catch (const std::exception& error) {
    return Unavailable("cannot serve metrics on ", address, ": ", error.what());
  }
}

MetricsServer::MetricsServer(std::string host,
                             std::unique_ptr<prometheus::Exposer> exposer,
                             Pages pages)
    : host_(std::move(host)),
      pages_(std::move(pages)),
      exposer_(std::move(exposer)),
      port_(exposer_->GetListeningPorts().front()) {}

// The library's listening thread looks every 2 s whether it shall end (civetweb's
// SOCKET_TIMEOUT_QUANTUM, fixed when it was compiled) or when somebody connects; so we do. A knock
// that comes before the library has raised its flag is lost: hence more than one.
MetricsServer::~MetricsServer() {
  absl::Notification ended;
  std::thread ending([&] {
    exposer_.reset();
    ended.Notify();
  });
  while (!ended.WaitForNotificationWithTimeout(absl::Milliseconds(10))) Knock(host_, port_);
  ending.join();
}

}  // namespace facet
