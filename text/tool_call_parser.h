// The body of one tool call, as Gemma 4 writes it, to a name and JSON arguments:
//
//   call:get_weather{city:<|"|>Paris<|"|>,days:[1,2],opt:{x:true,y:null}}
//
// Strings stand between quote tokens and are raw: no escapes, and any text inside, so quotes must
// be known as tokens. The reader is lenient, because models are: what is missing at the end counts
// as there, keys may be quoted, values may be in '...' or "...", and a bare word is a string.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace facet {

struct ToolCall {
  std::string name = {};
  std::string arguments_json = {};  // An object; numbers as the model wrote them.
  bool complete = true;             // False if brackets or quotes were missing at the end.
};

// A call body in the making: text with the places of the quote tokens in it.
struct ToolCallBody {
  std::string text = {};
  std::vector<size_t> quotes =
      {};  // Offsets into text before which a quote token stood, ascending.
};

// nullopt if the body does not begin with "call:NAME{" or nests deeper than 64.
std::optional<ToolCall> ParseToolCall(const ToolCallBody& body);

}  // namespace facet
