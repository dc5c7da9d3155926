#include "tests/sim/sim_world.h"

#include <utility>

namespace facet::sim {

using worker::ControlMessage;
using worker::StepHeader;

namespace {

constexpr int64_t kNoticeNs = 1'000 * kNsPerMs;
constexpr int64_t kRecoveryNs = 5'000 * kNsPerMs;

}  // namespace

World::World(uint64_t seed) : seed_(seed), random_(seed), network_(events_, random_) {
  static constexpr int32_t kSizes[] = {2, 4, 8};
  const int64_t pick = random_.Between(0, 3);
  num_ranks_ = pick < 3 ? kSizes[pick] : static_cast<int32_t>(random_.Between(1, 8));
  num_spares_ = static_cast<int32_t>(random_.Between(0, 2));
  for (int32_t host = 0; host < num_ranks_ + num_spares_; ++host) {
    at_host_.push_back(nullptr);
    Restart(host);
  }
}

std::string World::Run() {
  PlanFaults();
  BringWork();
  const int64_t end_ns = quiet_ns_ + kRecoveryNs;
  while (failure_.empty() && !done_ && events_.RunOne(end_ns)) {
  }
  if (failure_.empty() && !done_) {
    failure_ = "no step within 5 s after the last fault";
    for (const Process* process : at_host_) failure_ += StrCat("\n  ", process->Describe());
  }
  return failure_.empty() ? "" : StrCat("seed ", seed_, ": ", failure_);
}

int64_t World::FirstEpochMin() const { return now_ns() / kNsPerMs; }

worker::GroupHub::Options World::hub_options() const {
  return {.num_ranks = num_ranks_,
          .group_key = "key",
          .heartbeat_ns = 100 * kNsPerMs,
          .silence_ns = 800 * kNsPerMs,
          .spare_after_ns = 1500 * kNsPerMs,
          .assign_ns = 2000 * kNsPerMs};
}

worker::GroupMember::Options World::member_options(int32_t rank, int64_t epoch_min) const {
  return {.rank = rank,
          .num_ranks = num_ranks_,
          .epoch_min = epoch_min,
          .rendezvous_address = "host 0",
          .group_key = "key",
          .addresses = StrCat("rank ", rank),
          .heartbeat_ns = 100 * kNsPerMs,
          .silence_ns = 800 * kNsPerMs};
}

std::shared_ptr<Connection> World::NewConnection(Process& client) {
  auto connection = std::make_shared<Connection>();
  connection->number = num_connections_++;
  connection->client = &client;
  connections_[connection->number] = connection;
  return connection;
}

void World::SendSyn(const std::shared_ptr<Connection>& connection) {
  network_.Send(2 * connection->number, connection->client->host(), 0, [this, connection] {
    if (!connection->client_open) return;
    Process* server = at_host_[0];
    if (!server->alive() || server->listening() == nullptr) {
      CloseByServer(connection, "nobody listens");
      return;
    }
    connection->server = server;  // The system accepts, even if the process stands still.
    connection->server_open = true;
    connection->hub = server->hub_number();
    network_.Send(2 * connection->number + 1, 0, connection->client->host(), [connection] {
      connection->client->Deliver([connection] {
        if (connection->client_open) connection->client->member()->OnConnected();
      });
    });
    server->Deliver([connection] {
      if (!connection->server_open) return;
      connection->server->hub()->OnConnected(connection->number, "");
    });
  });
}

void World::SendToHub(const std::shared_ptr<Connection>& connection,
                      const ControlMessage& message) {
  if (!connection->client_open) return;
  network_.Send(2 * connection->number, connection->client->host(), 0, [connection, message] {
    if (!connection->server_open) return;
    connection->server->Deliver([connection, message] {
      if (!connection->server_open) return;
      connection->server->hub()->OnMessage(connection->number, ControlMessage(message));
    });
  });
}

void World::SendToMember(const std::shared_ptr<Connection>& connection,
                         const ControlMessage& message) {
  if (!connection->server_open) return;
  network_.Send(2 * connection->number + 1, 0, connection->client->host(), [connection, message] {
    if (!connection->client_open) return;
    connection->client->Deliver([connection, message] {
      if (!connection->client_open) return;
      connection->client->member()->OnMessage(ControlMessage(message));
    });
  });
}

void World::CloseByClient(const std::shared_ptr<Connection>& connection,
                          const std::string& reason) {
  if (!connection->client_open) return;
  connection->client_open = false;
  network_.Send(2 * connection->number, connection->client->host(), 0, [connection, reason] {
    if (!connection->server_open) return;
    connection->server->Deliver([connection, reason] {
      if (!std::exchange(connection->server_open, false)) return;
      connection->server->hub()->OnClosed(connection->number, reason);
    });
  });
}

void World::CloseByServer(const std::shared_ptr<Connection>& connection,
                          const std::string& reason) {
  connection->server_open = false;
  network_.Send(2 * connection->number + 1, 0, connection->client->host(), [connection, reason] {
    connection->client->Deliver([connection, reason] {
      if (!std::exchange(connection->client_open, false)) return;
      connection->client->member()->OnClosed(reason);
    });
  });
}

void World::CloseAllOf(Process& process) {
  for (const auto& [number, connection] : connections_) {
    if (connection->client == &process) CloseByClient(connection, "connection closed");
    if (connection->server == &process && connection->server_open) {
      CloseByServer(connection, "connection closed");
    }
  }
  std::erase_if(connections_, [](const auto& entry) {
    return !entry.second->client_open && !entry.second->server_open;
  });
}

void World::SendData(Process& from, int32_t to_rank, std::function<void(Process&)> arrive) {
  Process* to = groups_[from.group()].members[to_rank];
  if (to == nullptr) return Fail("a step began before its ranks had started");
  const int64_t stream = -(from.host() * 64 + to->host()) - 1;
  network_.Send(stream, from.host(), to->host(),
                [to, arrive = std::move(arrive)] { to->Deliver([to, arrive] { arrive(*to); }); });
}

void World::SendFrame(Process& from, const Frame& frame) {
  const auto router = static_cast<int32_t>(at_host_.size());
  network_.Send(-10'000 - from.host(), from.host(), router, [this, frame] { Route(frame); });
}

int64_t World::OnStarted(Process& process, int64_t hub, int64_t epoch) {
  const auto [found, is_new] = group_of_hub_.try_emplace(hub, static_cast<int64_t>(groups_.size()));
  if (is_new) {
    groups_.push_back({.epoch = epoch, .members = std::vector<Process*>(num_ranks_)});
    ++totals_.num_groups;
  }
  const int64_t number = found->second;
  Group& group = groups_[number];
  if (group.epoch != epoch) {
    Fail(StrCat("group ", number, " has epochs ", group.epoch, " and ", epoch));
  }
  if (const auto [same, first] = group_of_epoch_.try_emplace(epoch, number);
      !first && same->second != number) {
    Fail(StrCat("epoch ", epoch, " is used for groups ", same->second, " and ", number));
  }
  group.members[process.rank()] = &process;
  return number;
}

void World::OnHeader(int64_t group, int64_t epoch, const StepHeader& header) {
  if (header.tokens_max() == 0 && !header.any_leaving()) {
    Fail(StrCat("step ", header.step, " of epoch ", epoch, " is wanted by nobody"));
  }
  const auto [found, is_new] = groups_[group].headers.try_emplace(header.step, header);
  if (!is_new && found->second != header) {
    Fail(StrCat("step ", header.step, " of epoch ", epoch, " has two headers"));
  }
  groups_[group].begun_ns.try_emplace(header.step, now_ns());
}

void World::OnFault(const worker::GroupFault& fault) {
  if (totals_.num_faults == 0) {
    Fail(StrCat("a fault where there was none: ", MessageOf(StatusOf(fault))));
  }
}

void World::Fail(const std::string& what) {
  if (failure_.empty()) failure_ = StrCat(what, " at ", now_ns() / kNsPerMs, " ms");
}

void World::PlanFaults() {
  const int64_t num_faults = random_.Chance(0.1) ? 0 : random_.Between(1, 8);
  const int64_t last_ms = random_.Between(500, 5'000);
  for (int64_t i = 0; i < num_faults; ++i) {
    events_.After(random_.Between(50, last_ms) * kNsPerMs, [this] { DoFault(); });
  }
  for (int64_t i = random_.Between(0, 2); i > 0; --i) {
    events_.After(random_.Between(50, last_ms) * kNsPerMs, [this] { DrainAll(); });
  }
  quiet_ns_ = now_ns() + (last_ms + random_.Between(1, 1'000)) * kNsPerMs;
  events_.After(quiet_ns_ - now_ns(), [this] { EndFaults(); });
}

void World::DoFault() {
  ++totals_.num_faults;
  const auto num_hosts = static_cast<int32_t>(at_host_.size());
  const auto host = static_cast<int32_t>(random_.Between(0, num_hosts - 1));
  const int64_t kind = random_.Between(0, 2);
  const int64_t duration_ns = random_.Between(50, 3'000) * kNsPerMs;
  if (kind == 0) return KillOne(host);
  if (kind == 1) return StopOne(host, duration_ns);
  // Most links that matter are those to rank 0; the router is a host as well.
  const auto other = static_cast<int32_t>(random_.Chance(0.6) ? 0 : random_.Between(0, num_hosts));
  if (other != host) CutOne(host, other, random_.Chance(0.6), duration_ns);
}

void World::KillOne(int32_t host) {
  Process& victim = *at_host_[host];
  if (!victim.alive()) return;
  ExpectNotice(victim, false);
  victim.Kill();
  events_.After(random_.Between(50, 2'000) * kNsPerMs, [this, host] {
    if (!at_host_[host]->alive()) Restart(host);
  });
}

void World::StopOne(int32_t host, int64_t duration_ns) {
  Process& victim = *at_host_[host];
  if (!victim.alive() || victim.stopped()) return;
  ExpectNotice(victim, false);
  victim.Stop();
  events_.After(duration_ns, [&victim] { victim.Continue(); });
}

void World::CutOne(int32_t a, int32_t b, bool both, int64_t duration_ns) {
  if (a == 0 && b < static_cast<int32_t>(at_host_.size())) ExpectNotice(*at_host_[b], true);
  if (b == 0) ExpectNotice(*at_host_[a], true);
  SetCut(a, b, true);
  if (both) SetCut(b, a, true);
  events_.After(duration_ns, [this, a, b, both] {
    SetCut(a, b, false);
    if (both) SetCut(b, a, false);
  });
}

void World::SetCut(int32_t from, int32_t to, bool cut) {
  link_changed_ns_[{from, to}] = now_ns();
  if (cut) {
    network_.Cut(from, to);
  } else {
    network_.Heal(from, to);
  }
}

void World::Restart(int32_t host) {
  const int32_t rank = host < num_ranks_ ? host : worker::kSpareRank;
  processes_.push_back(std::make_unique<Process>(*this, host, rank));
  at_host_[host] = processes_.back().get();
}

void World::EndFaults() {
  const auto num_hosts = static_cast<int32_t>(at_host_.size());
  for (int32_t from = 0; from <= num_hosts; ++from) {
    for (int32_t to = 0; to <= num_hosts; ++to) SetCut(from, to, false);
  }
  for (int32_t host = 0; host < num_hosts; ++host) {
    at_host_[host]->Continue();
    if (!at_host_[host]->alive()) Restart(host);
  }
}

void World::BringWork() {
  Process& process = *at_host_[random_.Between(0, static_cast<int64_t>(at_host_.size()) - 1)];
  process.AddWork(random_.Between(1, 4));
  events_.After(random_.Between(5, 200) * kNsPerMs, [this] { BringWork(); });
}

void World::DrainAll() {
  for (Process* process : at_host_) {
    events_.After(random_.Between(0, 200) * kNsPerMs, [process] { process->Drain(); });
  }
}

void World::ExpectNotice(Process& victim, bool only_its_link) {
  const int64_t since_ns = now_ns();
  const int64_t group = victim.group();
  if (group < 0) return;
  events_.After(kNoticeNs, [this, &victim, only_its_link, since_ns, group] {
    // In their last step ranks may have lost the hub in good order; then deadlines tell.
    const auto& headers = groups_[group].headers;
    if (!headers.empty() && headers.rbegin()->second.all_leaving()) return;
    Process& zero = *groups_[group].members[0];
    // Held-up words of a rank that stands still sound like life when its link heals.
    const bool lasts =
        only_its_link
            ? link_changed_ns_[{0, victim.host()}] <= since_ns &&
                  link_changed_ns_[{victim.host(), 0}] <= since_ns && Undisturbed(victim, since_ns)
            : victim.disturbed_ns() <= since_ns && LinkWhole(victim.host(), since_ns);
    if (!lasts || (&zero != &victim && !Undisturbed(zero, since_ns))) return;
    for (Process* rank : groups_[group].members) {
      if (rank == nullptr || (rank == &victim && !only_its_link)) continue;
      const bool hears = rank == &victim || LinkWhole(rank->host(), since_ns);
      if (!hears || !Undisturbed(*rank, since_ns)) continue;
      if (rank->group() == group) {
        Fail(StrCat("not noticed within a second: ", victim.Describe(), "; by ", rank->Describe()));
      }
    }
  });
}

bool World::LinkWhole(int32_t host, int64_t since_ns) {
  return link_changed_ns_[{0, host}] < since_ns && link_changed_ns_[{host, 0}] < since_ns &&
         !network_.IsCut(0, host) && !network_.IsCut(host, 0);
}

bool World::Undisturbed(Process& process, int64_t since_ns) const {
  return process.alive() && !process.stopped() && process.disturbed_ns() < since_ns;
}

void World::Route(const Frame& frame) {
  if (frame.epoch < highest_epoch_) {
    ++totals_.frames_dropped;
    return;
  }
  highest_epoch_ = frame.epoch;
  ++totals_.frames_delivered;
  if (frame.group < delivered_group_) {
    Fail(StrCat("a frame of group ", frame.group, " after one of group ", delivered_group_));
  }
  delivered_group_ = frame.group;
  Group& group = groups_[frame.group];
  const bool whole = ++group.num_frames[frame.step] == num_ranks_;
  if (whole && now_ns() > quiet_ns_ && group.begun_ns[frame.step] > quiet_ns_) done_ = true;
}

}  // namespace facet::sim
