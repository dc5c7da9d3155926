#include "cli/child_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

namespace facet {
namespace {

constexpr size_t kLineBytesMax = 64 << 10;
constexpr int kReadsMax = 64;  // At one time, so that one child cannot starve the others.

// Between fork and exec: only calls that are safe in a signal handler. Tells the parent errno
// through `report` if the program cannot be run.
[[noreturn]] void RunProgram(char* const* arguments, int output, int report, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // It died before the line above.
  setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  dup2(null, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  execv(arguments[0], arguments);
  const int error = errno;
  (void)!write(report, &error, sizeof(error));
  _exit(127);
}

}  // namespace

StatusOr<ChildProcess> ChildProcess::Start(std::string name,
                                           const std::vector<std::string>& arguments) {
  std::array<int, 2> output{};
  std::array<int, 2> report{};
  if (pipe2(output.data(), O_CLOEXEC) != 0) {
    return Unavailable("no pipe for ", name, ": ", std::strerror(errno));
  }
  if (pipe2(report.data(), O_CLOEXEC) != 0) {
    const int error = errno;
    close(output[0]);
    close(output[1]);
    return Unavailable("no pipe for ", name, ": ", std::strerror(error));
  }
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) RunProgram(argv.data(), output[1], report[1], parent);
  const int fork_error = errno;
  close(output[1]);
  close(report[1]);
  // The pipe closes without a word when exec succeeds.
  int exec_error = 0;
  const bool failed = pid > 0 && read(report[0], &exec_error, sizeof(exec_error)) > 0;
  close(report[0]);
  if (pid < 0 || failed) close(output[0]);
  if (pid < 0) return Unavailable("cannot start ", name, ": ", std::strerror(fork_error));
  if (failed) {
    waitpid(pid, nullptr, 0);
    return NotFound("cannot run ", arguments[0], " for ", name, ": ", std::strerror(exec_error));
  }
  fcntl(output[0], F_SETFL, O_NONBLOCK);
  return ChildProcess(std::move(name), pid, output[0]);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : name_(std::move(other.name_)),
      pid_(other.pid_),
      output_(std::exchange(other.output_, -1)),
      running_(std::exchange(other.running_, false)),
      wait_status_(other.wait_status_),
      partial_(std::move(other.partial_)),
      last_words_(std::move(other.last_words_)) {}

ChildProcess::~ChildProcess() {
  if (running_) {
    Send(SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  if (output_ >= 0) close(output_);
}

void ChildProcess::Emit(std::string_view line, const OnLine& on_line) {
  if (!line.empty() && line.front() != '{') last_words_ = line;
  on_line(*this, line);
}

void ChildProcess::ReadLines(const OnLine& on_line) {
  std::array<char, 16384> buffer{};
  for (int i = 0; i < kReadsMax && output_ >= 0; ++i) {
    const ssize_t count = read(output_, buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return;  // Nothing for now.
    if (count == 0) {
      close(std::exchange(output_, -1));
      if (!partial_.empty()) Emit(std::exchange(partial_, {}), on_line);
      return;
    }
    partial_.append(buffer.data(), static_cast<size_t>(count));
    size_t begin = 0;
    for (size_t end = 0; (end = partial_.find('\n', begin)) != std::string::npos; begin = end + 1) {
      Emit(std::string_view(partial_).substr(begin, end - begin), on_line);
    }
    partial_.erase(0, begin);
    if (partial_.size() > kLineBytesMax) Emit(std::exchange(partial_, {}), on_line);
  }
}

bool ChildProcess::Reap(const OnLine& on_line) {
  if (!running_ || waitpid(pid_, &wait_status_, WNOHANG) != pid_) return false;
  running_ = false;
  ReadLines(on_line);
  return true;
}

void ChildProcess::Send(int signal) const {
  if (running_) kill(pid_, signal);
}

std::string ChildProcess::EndText() const {
  if (WIFSIGNALED(wait_status_)) {
    const int signal = WTERMSIG(wait_status_);
    return StrCat("signal ", signal, " (", sigdescr_np(signal), ")");
  }
  return StrCat("exit status ", WEXITSTATUS(wait_status_));
}

}  // namespace facet
