// One JSON line per event on standard error:
//   {"time":"2026-11-21T09:00:00.123Z","level":"info","event":"request finished","request_id":"7"}
// Never prompt or output text. Lines of several threads do not mix.
#pragma once

#include <concepts>
#include <initializer_list>
#include <string>
#include <string_view>

namespace facet {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

using enum LogLevel;

// A named value of a log line: strings are quoted, numbers and booleans written as JSON has them.
struct LogField {
  LogField(std::string_view field_name, std::string_view text);
  LogField(std::string_view field_name, const char* text);
  LogField(std::string_view field_name, const std::string& text);
  LogField(std::string_view field_name, bool flag);

  template <typename T>

  requires(std::integral<T> || std::floating_point<T>)
      LogField(std::string_view field_name, T number)
      : name(field_name), json(NumberJson(static_cast<double>(number), std::integral<T>)) {}

  static std::string NumberJson(double number, bool integral);

  std::string name;
  std::string json;
};

// Lines below this level are dropped. Set once at start.
void SetLogLevel(LogLevel level);

// Parses "debug", "info", "warning" or "error"; false if it is none of them.
bool ParseLogLevel(std::string_view text, LogLevel* level);

void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields = {});

// text as a JSON string with its quotes; invalid UTF-8 is replaced.
std::string JsonQuote(std::string_view text);

}  // namespace facet
