// A program that runs below this one: its output comes through a pipe, and it dies with us.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace facet {

// Life: running → ended. Not thread-safe; the caller polls output() and reaps.
class ChildProcess {
 public:
  using OnLine = std::function<void(const ChildProcess& child, std::string_view line)>;

  // arguments[0] is the program's path. Standard output and error share the pipe. The child is
  // alone in its process group, so a Ctrl-C on the terminal reaches only us, and is killed when the
  // calling thread ends. Other threads may exist.
  static StatusOr<ChildProcess> Start(std::string name, const std::vector<std::string>& arguments);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  // Kills what still runs.
  ~ChildProcess();

  const std::string& name() const { return name_; }

  pid_t pid() const { return pid_; }

  // To be polled for reading; -1 once the child has closed it.
  int output() const { return output_; }

  bool running() const { return running_; }

  // Hands what is in the pipe to on_line, line by line, without waiting.
  void ReadLines(const OnLine& on_line);

  // True once, when the child has ended; what it wrote last is handed to on_line before.
  bool Reap(const OnLine& on_line);

  void Send(int signal) const;

  // "exit status 1", "signal 9 (Killed)"; of an ended child.
  std::string EndText() const;

  bool EndedWell() const { return wait_status_ == 0; }

  // The last line that is not one of our JSON log lines: why a program gave up.
  const std::string& last_words() const { return last_words_; }

 private:
  ChildProcess(std::string name, pid_t pid, int output)
      : name_(std::move(name)), pid_(pid), output_(output) {}

  void Emit(std::string_view line, const OnLine& on_line);

  std::string name_;
  pid_t pid_ = -1;
  int output_ = -1;
  bool running_ = true;
  int wait_status_ = 0;
  std::string partial_;  // Of a line, at most kLineBytesMax.
  std::string last_words_;
};

}  // namespace facet
