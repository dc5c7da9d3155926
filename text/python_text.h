// Text as Python and Jinja make it, because the published chat templates run there: str() of a JSON
// value, str.strip, and the letter case that sorting and upper-casing follow.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace facet {

using OrderedJson = nlohmann::ordered_json;  // Objects keep the order of the text they came from.

// str(value): 1e+20, 1e-07, 3.0, True, None, ['a', 1]; a string is itself.
std::string PythonStr(const OrderedJson& value);

// Without white space at both ends, Unicode's included.
std::string_view PythonTrim(std::string_view text);

// Lower case of ASCII, Latin, Greek, Cyrillic and Armenian letters, character by character; others
// stay. Invalid UTF-8 is copied.
std::string PythonLower(std::string_view text);

// Upper case of ASCII letters; others stay.
std::string AsciiUpper(std::string_view text);

// bool(value): false for null, false, zero, and empty strings, arrays and objects.
bool PythonTruth(const OrderedJson& value);

}  // namespace facet
