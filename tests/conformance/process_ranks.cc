// Ranks are processes: forked, on loopback, and killed by id if they do not end.
#include "tests/conformance/process_ranks.h"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/reserved_port.h"

namespace facet::worker {
namespace {

struct Child {
  pid_t pid = -1;
  int output = -1;
};

Child Start(int32_t rank, int32_t num_ranks, const std::string& rendezvous, const RankBody& body) {
  std::array<int, 2> ends{};
  FACET_CHECK_EQ(pipe(ends.data()), 0);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  FACET_CHECK_GE(pid, 0);
  if (pid > 0) {
    close(ends[1]);
    return {pid, ends[0]};
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  close(ends[0]);
  const std::string said = body(*TakeProcessSeat(rank, num_ranks, rendezvous));
  const bool written =
      write(ends[1], said.data(), said.size()) == static_cast<ssize_t>(said.size());
  _exit(written ? 0 : 1);
}

// What the child said, once it has ended; it is killed at the deadline.
std::string Finish(const Child& child, int64_t deadline_ns) {
  std::string said;
  std::array<char, 4096> piece{};
  while (true) {
    const int64_t left_ms = std::max<int64_t>(0, (deadline_ns - Clock::Real().NowNs()) / 1'000'000);
    pollfd readable = {.fd = child.output, .events = POLLIN};
    if (poll(&readable, 1, static_cast<int>(left_ms)) == 0) {
      kill(child.pid, SIGKILL);
      said += "(did not end)";
      break;
    }
    const ssize_t got = read(child.output, piece.data(), piece.size());
    if (got <= 0) break;
    said.append(piece.data(), got);
  }
  close(child.output);
  int status = 0;
  waitpid(child.pid, &status, 0);
  if (said.empty() && status != 0) said = StrCat("wait status ", status);
  return said;
}

}  // namespace

std::vector<std::string> RunRanks(int32_t num_ranks, const RankBody& body) {
  const ReservedPort port = ReservedPort::Reserve().value();
  const std::string rendezvous = StrCat("127.0.0.1:", port.port());
  std::vector<Child> children;
  children.reserve(num_ranks);
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    children.push_back(Start(rank, num_ranks, rendezvous, body));
  }
  const int64_t deadline_ns = Clock::Real().NowNs() + 30'000'000'000;
  std::vector<std::string> said;
  said.reserve(num_ranks);
  for (const Child& child : children) said.push_back(Finish(child, deadline_ns));
  return said;
}

}  // namespace facet::worker
