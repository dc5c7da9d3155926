#include "cli/child_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <csignal>

namespace facet {
namespace {

// Runs a shell script to its end and returns its lines.
std::vector<std::string> LinesUntilEnd(ChildProcess& child) {
  std::vector<std::string> lines;
  const auto on_line = [&](const ChildProcess&, std::string_view line) {
    lines.emplace_back(line);
  };
  while (!child.Reap(on_line)) {
    pollfd descriptor{.fd = child.output(), .events = POLLIN};
    poll(&descriptor, 1, 20);
    child.ReadLines(on_line);
  }
  return lines;
}

ChildProcess Shell(const std::string& script) {
  StatusOr<ChildProcess> child = ChildProcess::Start("shell", {"/bin/sh", "-c", script});
  EXPECT_TRUE(child.ok()) << child.status();
  return *std::move(child);
}

TEST(ChildProcessTest, OutputComesInWholeLines) {
  ChildProcess child = Shell("printf 'a\\nb' ; printf 'c\\n' >&2; printf d");
  EXPECT_THAT(LinesUntilEnd(child), testing::ElementsAre("a", "bc", "d"));
  EXPECT_TRUE(child.EndedWell());
}

TEST(ChildProcessTest, EndIsToldByStatusOrSignal) {
  ChildProcess failing = Shell("echo '{\"level\":\"info\"}'; echo no port; exit 3");
  LinesUntilEnd(failing);
  EXPECT_EQ(failing.EndText(), "exit status 3");
  EXPECT_EQ(failing.last_words(), "no port");
  ChildProcess killed = Shell("kill -9 $$");
  LinesUntilEnd(killed);
  EXPECT_EQ(killed.EndText(), "signal 9 (Killed)");
}

TEST(ChildProcessTest, AProgramThatIsNotThereIsNamed) {
  const auto child = ChildProcess::Start("router", {"/no/such/facet-router"});
  EXPECT_THAT(std::string(child.status().message()),
              testing::HasSubstr("cannot run /no/such/facet-router for router: No such file"));
}

TEST(ChildProcessTest, DestroyingItKillsTheProcess) {
  pid_t pid = 0;
  {
    const ChildProcess child = Shell("exec sleep 1000");
    pid = child.pid();
    EXPECT_EQ(kill(pid, 0), 0);
  }
  EXPECT_EQ(kill(pid, 0), -1);
}

}  // namespace
}  // namespace facet
