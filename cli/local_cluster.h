// The processes of one cluster config on this machine: a router and every configured worker,
// started below us, watched and stopped again. One thread, one poll loop.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "cli/child_process.h"
#include "cli/client.h"
#include "cli/terminal.h"
#include "facet/v1/config.pb.h"

namespace facet {

struct LocalClusterOptions {
  std::string config_file;
  std::string program_directory;  // Holds facet-router and facet-worker.
  std::string log_level = "info";
  ClientOptions client;  // For the router's status; the address is the config's.
};

// Life: made → started → all ready → stopped.
class LocalCluster {
 public:
  LocalCluster(LocalClusterOptions options, v1::ClusterConfig config, const Paint& paint);
  ~LocalCluster();

  // Starts every process. On an error those already started still run: Stop follows.
  Status Start();

  // Passes on what the processes say, tells when all are ready and starts a worker that died again,
  // until SIGINT, SIGTERM or SIGHUP comes (OK) or the cluster cannot go on: a process ended before
  // all were ready, or the router died.
  Status Supervise();

  // SIGTERM to the router, then to the workers, each with a bounded wait, then SIGKILL. Another
  // signal to end kills at once. After it no process is left.
  void Stop();

 private:
  struct Life {
    std::vector<std::string> arguments;
    int64_t started_ns = 0;
    int64_t restart_ns = 0;  // 0: it runs, or is not wanted.
    int early_ends = 0;
  };

  bool IsRouter(const ChildProcess& child) const;
  void ProvideGroupKey() const;
  std::vector<std::string> RouterCommand() const;
  std::vector<std::string> WorkerCommand(const v1::PoolConfig& pool, int index) const;

  // Waits for output, signals or the time; true if a signal to end came.
  bool Poll(int timeout_ms);
  bool ReadSignals();
  void OnLine(const ChildProcess& child, std::string_view line);
  // The processes that ended since the last call.
  std::vector<const ChildProcess*> ReapAll();
  Status CheckEnded();
  // Returns after how many seconds the worker is started again: longer each time that it ends soon.
  int64_t PlanRestart(const ChildProcess& child);
  Status RestartDue();
  Life& LifeOf(const ChildProcess& child);
  Status CheckReadiness();
  void PrintBanner() const;
  void Say(std::string_view sentence) const;
  // Sends SIGTERM to those that `which` picks and waits for them, at most so long.
  void End(bool router, int64_t wait_ms);

  const LocalClusterOptions options_;
  v1::ClusterConfig config_;
  const Paint paint_;
  size_t name_width_ = 0;
  int signals_ = -1;
  std::vector<std::unique_ptr<ChildProcess>> children_;  // The router is the first.
  std::vector<Life> lives_;                              // Of children_.
  std::unique_ptr<Client> client_;
  bool router_listens_ = false;
  bool all_ready_ = false;
  bool hurry_ = false;  // A second signal to end came.
};

}  // namespace facet
