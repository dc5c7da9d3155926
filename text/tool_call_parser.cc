#include "text/tool_call_parser.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/log.h"

namespace facet {
namespace {

constexpr size_t kValueDepthMax = 64;
constexpr std::string_view kSpaces = " \t\r\n";

std::string_view Trim(std::string_view text) {
  const size_t first = text.find_first_not_of(kSpaces);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kSpaces) - first + 1);
}

// Whether text is a number by JSON's grammar, whatever its size.
bool IsJsonNumber(std::string_view text) {
  const char first = text.empty() ? ' ' : text.front();
  if (first != '-' && (first < '0' || first > '9')) return false;
  const bool plain = text.find_first_not_of("0123456789+-.eE") == text.npos;
  return plain && nlohmann::json::accept(text.begin(), text.end());
}

// Reads the body once, left to right, and writes JSON as it goes.
class Reader {
 public:
  explicit Reader(const ToolCallBody& body) : text_(body.text), quotes_(body.quotes) {}

  std::optional<ToolCall> Read() {
    static constexpr std::string_view kPrefix = "call:";
    SkipSpaces();
    if (!text_.substr(at_).starts_with(kPrefix)) return std::nullopt;
    at_ += kPrefix.size();
    const size_t brace = text_.find('{', at_);
    const size_t name_end = std::min(brace, NextQuote());
    if (brace == text_.npos || name_end < brace) return std::nullopt;
    ToolCall call;
    call.name = std::string(Trim(text_.substr(at_, brace - at_)));
    if (call.name.empty()) return std::nullopt;
    at_ = brace;
    ReadObject();
    if (too_deep_) return std::nullopt;
    call.arguments_json = std::move(json_);
    call.complete = complete_;
    return call;
  }

 private:
  bool AtEnd() const { return at_ >= text_.size() && !AtQuote(); }

  bool AtQuote() const { return next_quote_ < quotes_.size() && quotes_[next_quote_] == at_; }

  // The offset of the next quote token; the end of the text if there is none.
  size_t NextQuote() const {
    return next_quote_ < quotes_.size() ? quotes_[next_quote_] : text_.size();
  }

  // Whether an ordinary character is next, and one of a set.
  bool AtText() const { return at_ < text_.size() && !AtQuote(); }

  bool AtAny(std::string_view set) const {
    return AtText() && set.find(text_[at_]) != std::string_view::npos;
  }

  void SkipSpaces() {
    while (AtAny(kSpaces)) ++at_;
  }

  // Enters { or [. False if that is too deep, and then the whole body is given up.
  bool Enter(char closer) {
    if (closers_.size() == kValueDepthMax) too_deep_ = true;
    closers_.push_back(closer);
    ++at_;
    return !too_deep_;
  }

  // Leaves at the closer, or at the end of the text, where it is missing.
  void Leave() {
    if (AtAny({&closers_.back(), 1})) {
      ++at_;
    } else {
      complete_ = false;
    }
    closers_.pop_back();
  }

  // At the entry of a container: false at its closer, a wrong closer or the end. Commas are
  // skipped.
  bool AtEntry() {
    SkipSpaces();
    while (AtAny(",")) {
      ++at_;
      SkipSpaces();
    }
    return !too_deep_ && !AtEnd() && !AtAny("}]");
  }

  void ReadObject() {
    if (!Enter('}')) return;
    json_ += '{';
    bool first = true;
    while (AtEntry()) {
      if (!first) json_ += ',';
      first = false;
      json_ += JsonQuote(ReadKey());
      json_ += ':';
      SkipSpaces();
      if (AtAny(":")) ++at_;
      ReadValue();
    }
    json_ += '}';
    Leave();
  }

  void ReadArray() {
    if (!Enter(']')) return;
    json_ += '[';
    bool first = true;
    while (AtEntry()) {
      if (!first) json_ += ',';
      first = false;
      ReadValue();
    }
    json_ += ']';
    Leave();
  }

  std::string ReadKey() {
    if (AtQuote()) return ReadTokenString();
    if (AtAny("\"'")) return ReadPlainString();
    const size_t begin = at_;
    while (AtText() && !AtAny(":,{}[]")) ++at_;
    return std::string(Trim(text_.substr(begin, at_ - begin)));
  }

  // A value that is missing, as in "{k:}" or at the end of the text, is null.
  void ReadValue() {
    SkipSpaces();
    if (AtQuote()) {
      json_ += JsonQuote(ReadTokenString());
    } else if (AtAny("{")) {
      ReadObject();
    } else if (AtAny("[")) {
      ReadArray();
    } else if (AtAny("\"'")) {
      json_ += JsonQuote(ReadPlainString());
    } else {
      ReadBareValue();
    }
  }

  // From one quote token to the next. Where the second is missing, brackets at the end of the text
  // that close what is open here are taken for just that.
  std::string ReadTokenString() {
    ++next_quote_;
    const size_t begin = at_;
    at_ = NextQuote();
    if (next_quote_ < quotes_.size()) {
      ++next_quote_;
      return std::string(text_.substr(begin, at_ - begin));
    }
    complete_ = false;
    const std::string closers(closers_.rbegin(), closers_.rend());
    std::string_view rest = text_.substr(begin);
    for (size_t skip = 0; skip < closers.size(); ++skip) {
      const std::string_view tail = std::string_view(closers).substr(skip);
      if (!rest.ends_with(tail)) continue;
      at_ = text_.size() - tail.size();
      return std::string(text_.substr(begin, at_ - begin));
    }
    return std::string(rest);
  }

  // In ordinary quotes; such a quote ends the string only before a comma, a bracket, a colon or the
  // end, so that 'it's' is one string.
  std::string ReadPlainString() {
    const char quote = text_[at_];
    const size_t begin = ++at_;
    const std::string_view text = text_.substr(0, NextQuote());
    for (size_t end = begin; (end = text.find(quote, end)) != text.npos; ++end) {
      const size_t after = text.find_first_not_of(kSpaces, end + 1);
      if (after != text.npos && std::string_view(",:}]").find(text[after]) == text.npos) continue;
      at_ = end + 1;
      return std::string(text.substr(begin, end - begin));
    }
    complete_ = false;
    const size_t end = std::min(text.find_first_of(",}]", begin), text.size());
    at_ = end;
    return std::string(text.substr(begin, end - begin));
  }

  void ReadBareValue() {
    const size_t begin = at_;
    while (AtText() && !AtAny(",}]")) ++at_;
    const std::string_view word = Trim(text_.substr(begin, at_ - begin));
    if (word.empty() || word == "null" || word == "None") {
      json_ += "null";
    } else if (word == "true" || word == "True") {
      json_ += "true";
    } else if (word == "false" || word == "False") {
      json_ += "false";
    } else if (IsJsonNumber(word)) {
      json_ += word;
    } else {
      json_ += JsonQuote(word);
    }
  }

  const std::string_view text_;
  const std::vector<size_t>& quotes_;
  size_t at_ = 0;
  size_t next_quote_ = 0;  // Index into quotes_ of the first not yet passed.
  std::string closers_;    // What would close the open containers, innermost last.
  std::string json_;
  bool complete_ = true;
  bool too_deep_ = false;
};

}  // namespace

std::optional<ToolCall> ParseToolCall(const ToolCallBody& body) { return Reader(body).Read(); }

}  // namespace facet
