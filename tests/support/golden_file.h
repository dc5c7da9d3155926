// Committed golden files that are packed with xz.
#pragma once

#include <cstdio>
#include <filesystem>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

namespace facet {

// The unpacked bytes of a committed .xz file (path from the source root); nullopt if the file or
// the xz program is missing.
inline std::optional<std::string> ReadXz(const std::string& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  FILE* pipe = popen(("xz -dc '" + path + "' 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return std::nullopt;
  std::string bytes;
  std::vector<char> chunk(1 << 16);
  for (size_t n; (n = std::fread(chunk.data(), 1, chunk.size(), pipe)) > 0;) {
    bytes.append(chunk.data(), n);
  }
  if (pclose(pipe) != 0) return std::nullopt;
  return bytes;
}

// The same file line by line.
inline std::optional<std::vector<std::string>> ReadXzLines(const std::string& path) {
  const std::optional<std::string> bytes = ReadXz(path);
  if (!bytes) return std::nullopt;
  std::istringstream in(*bytes);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

inline constexpr char kNoVocabulary[] = "skipped: no vocabulary";

}  // namespace facet
