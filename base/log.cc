#include "base/log.h"

#include <atomic>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/clock.h"

namespace facet {
namespace {

std::atomic<LogLevel> log_level{kInfo};

const char* LevelName(LogLevel level) {
  switch (level) {
    case kDebug:
      return "debug";
    case kInfo:
      return "info";
    case kWarning:
      return "warning";
    case kError:
      return "error";
  }
  return "error";
}

std::string UtcTime(int64_t unix_ns) {
  const time_t seconds = unix_ns / 1'000'000'000;
  tm parts{};
  gmtime_r(&seconds, &parts);
  char text[40];
  const size_t length = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
  std::snprintf(text + length, sizeof(text) - length, ".%03dZ",
                static_cast<int>(unix_ns / 1'000'000 % 1000));
  return text;
}

}  // namespace

LogField::LogField(std::string_view field_name, std::string_view text)
    : name(field_name), json(JsonQuote(text)) {}

LogField::LogField(std::string_view field_name, const char* text)
    : LogField(field_name, std::string_view(text)) {}

LogField::LogField(std::string_view field_name, const std::string& text)
    : LogField(field_name, std::string_view(text)) {}

LogField::LogField(std::string_view field_name, bool flag)
    : name(field_name), json(flag ? "true" : "false") {}

std::string LogField::NumberJson(double number, bool integral) {
  if (!std::isfinite(number)) return "null";
  char text[40];
  std::snprintf(text, sizeof(text), integral ? "%.0f" : "%.6g", number);
  return text;
}

void SetLogLevel(LogLevel level) { log_level = level; }

bool ParseLogLevel(std::string_view text, LogLevel* level) {
  for (LogLevel candidate : {kDebug, kInfo, kWarning, kError}) {
    if (text == LevelName(candidate)) {
      *level = candidate;
      return true;
    }
  }
  return false;
}

void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
  if (level < log_level.load(std::memory_order_relaxed)) return;
  std::string line = "{\"time\":\"" + UtcTime(Clock::Real().UnixNs()) + "\",\"level\":\"" +
                     LevelName(level) + "\",\"event\":" + JsonQuote(event);
  for (const LogField& field : fields) {
    line += ",";
    line += JsonQuote(field.name);
    line += ":";
    line += field.json;
  }
  line += "}\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

std::string JsonQuote(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace facet
