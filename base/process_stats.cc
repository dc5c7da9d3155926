#include "base/process_stats.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <sstream>
#include <string>

namespace facet {
namespace {

// The value of "name:   123 kB" in a file of /proc, in bytes.
int64_t KilobytesOf(const std::string& path, std::string_view name) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (!line.starts_with(name) || line.size() <= name.size() || line[name.size()] != ':') continue;
    return std::strtoll(line.c_str() + name.size() + 1, nullptr, 10) * 1024;
  }
  return 0;
}

// The least memory.max on the way from the process' control group (version 2) to the root; as in a
// container the own group may be the root. 0: none is set.
int64_t ControlGroupLimit() {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  std::string group = "/";
  while (std::getline(file, line)) {
    if (line.starts_with("0::")) group = line.substr(3);
  }
  int64_t limit = 0;
  while (true) {
    int64_t here = 0;
    std::ifstream max("/sys/fs/cgroup" + group + "/memory.max");
    if (max >> here && here > 0) limit = limit == 0 ? here : std::min(limit, here);
    if (group.size() <= 1) return limit;
    group.resize(std::max<size_t>(group.rfind('/'), 1));
  }
}

// The 22nd field of /proc/self/stat, in ticks since boot.
double StartUnixSeconds() {
  std::ifstream file("/proc/self/stat");
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const size_t name_end = text.rfind(')');  // The name may hold spaces.
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(text.substr(name_end + 1));
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  double ticks = 0;
  if (!(fields >> ticks)) return 0;
  timespec real{};
  timespec boot{};
  clock_gettime(CLOCK_REALTIME, &real);
  clock_gettime(CLOCK_BOOTTIME, &boot);
  const auto seconds = [](const timespec& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
  };
  return seconds(real) - seconds(boot) + ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace

ProcessStats ReadProcessStats() {
  static const double start_unix_seconds = StartUnixSeconds();  // A wall clock set later moves it.
  const int64_t machine = KilobytesOf("/proc/meminfo", "MemTotal");
  const int64_t group = ControlGroupLimit();
  timespec cpu{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
  return {.resident_bytes = KilobytesOf("/proc/self/status", "RssAnon") +
                            KilobytesOf("/proc/self/status", "RssShmem"),
          .memory_limit_bytes = group == 0 ? machine : std::min(machine, group),
          .cpu_ns = cpu.tv_sec * 1'000'000'000 + cpu.tv_nsec,
          .start_unix_seconds = start_unix_seconds};
}

}  // namespace facet
