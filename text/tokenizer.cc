#include "text/tokenizer.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/file.h"
#include "text/detokenizer.h"
#include "text/utf8.h"

namespace facet {
namespace {

constexpr std::string_view kSpaceMark = "\u2581";

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  size_t begin = 0;
  for (size_t at; (at = text.find(from, begin)) != text.npos; begin = at + from.size()) {
    result.append(text, begin, at - begin).append(to);
  }
  return result.append(text, begin, text.npos);
}

// add_bos_token of tokenizer_config.json; false if it is absent.
StatusOr<bool> ConfigAddsBos(std::string_view config_json) {
  if (config_json.empty()) return false;
  const nlohmann::json config = nlohmann::json::parse(config_json, nullptr, false);
  if (!config.is_object()) return InvalidArgument("tokenizer_config.json is not a JSON object");
  const auto add_bos = config.find("add_bos_token");
  if (add_bos == config.end() || add_bos->is_null()) return false;
  if (!add_bos->is_boolean()) {
    return InvalidArgument("tokenizer_config.json: add_bos_token must be true or false");
  }
  return add_bos->get<bool>();
}

}  // namespace

StatusOr<Tokenizer> Tokenizer::Load(const std::string& path) {
  FACET_ASSIGN_OR_RETURN(const std::string tokenizer_json, ReadFile(path));
  const std::filesystem::path config_path =
      std::filesystem::path(path).parent_path() / "tokenizer_config.json";
  std::string config_json;
  if (std::error_code error; std::filesystem::exists(config_path, error)) {
    FACET_ASSIGN_OR_RETURN(config_json, ReadFile(config_path.string()));
  }
  StatusOr<Tokenizer> tokenizer = Parse(tokenizer_json, config_json);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), path);
  return tokenizer;
}

StatusOr<Tokenizer> Tokenizer::Parse(std::string_view tokenizer_json,
                                     std::string_view config_json) {
  FACET_ASSIGN_OR_RETURN(const TokenizerFile file, ParseTokenizerFile(tokenizer_json));
  FACET_ASSIGN_OR_RETURN(const bool config_adds_bos, ConfigAddsBos(config_json));
  FACET_ASSIGN_OR_RETURN(Vocabulary vocabulary, Vocabulary::Build(file.pieces));
  FACET_ASSIGN_OR_RETURN(Bpe bpe, Bpe::Build(vocabulary, file.merges));
  Tokenizer tokenizer(std::move(vocabulary), std::move(bpe));
  tokenizer.adds_bos_ = file.adds_bos || config_adds_bos;
  if (tokenizer.adds_bos_ && !tokenizer.bos_id()) {
    return InvalidArgument("<bos> is to be added but model.vocab lacks it");
  }
  tokenizer.kinds_.assign(file.pieces.size(), 0);
  for (const AddedToken& token : file.added_tokens) {
    tokenizer.kinds_[token.id] = kAdded | (token.special ? kSpecial : 0);
    tokenizer.AddToTrie(token);
  }
  tokenizer.BuildBytes();
  return tokenizer;
}

void Tokenizer::BuildBytes() {
  std::vector<int> byte_of(kinds_.size(), -1);
  for (int byte = 0; byte < 256; ++byte) byte_of[bpe_.byte_id(static_cast<uint8_t>(byte))] = byte;
  bytes_at_.reserve(kinds_.size() + 1);
  for (int32_t id = 0; id < vocab_size(); ++id) {
    bytes_at_.push_back(static_cast<uint32_t>(bytes_.size()));
    if (byte_of[id] >= 0) {
      bytes_.push_back(static_cast<char>(byte_of[id]));
    } else {
      bytes_ += ReplaceAll(vocabulary_.Piece(id), kSpaceMark, " ");
    }
  }
  bytes_at_.push_back(static_cast<uint32_t>(bytes_.size()));
}

std::string_view Tokenizer::Bytes(int32_t id) const {
  if (!Contains(id)) return {};
  return std::string_view(bytes_).substr(bytes_at_[id], bytes_at_[id + 1] - bytes_at_[id]);
}

void Tokenizer::AddToTrie(const AddedToken& token) {
  std::vector<TrieNode>& trie = token.normalized ? normalized_trie_ : raw_trie_;
  int32_t node = 0;
  for (const char byte :
       token.normalized ? ReplaceAll(token.content, " ", kSpaceMark) : token.content) {
    int32_t next = -1;
    for (const auto& [edge, child] : trie[node].children) {
      if (edge == byte) next = child;
    }
    if (next < 0) {
      next = static_cast<int32_t>(trie.size());
      trie[node].children.emplace_back(byte, next);
      trie.emplace_back();
    }
    node = next;
  }
  trie[node].token_id = token.id;
}

// The longest added token that text begins with; length 0 if none does.
Tokenizer::Match Tokenizer::LongestMatch(const std::vector<TrieNode>& trie, std::string_view text) {
  Match longest;
  int32_t node = 0;
  for (size_t depth = 0; depth < text.size(); ++depth) {
    int32_t next = -1;
    for (const auto& [edge, child] : trie[node].children) {
      if (edge == text[depth]) next = child;
    }
    if (next < 0) break;
    node = next;
    if (trie[node].token_id >= 0) longest = {.token_id = trie[node].token_id, .length = depth + 1};
  }
  return longest;
}

StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                 EncodeOptions options) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3);
  size_t begin = 0;  // Of the text since the last added token.
  for (size_t at = 0; options.parse_added_tokens && at < text.size();) {
    const Match match = LongestMatch(raw_trie_, text.substr(at));
    if (match.length == 0) {
      ++at;
      continue;
    }
    FACET_RETURN_IF_ERROR(EncodeNormalized(text.substr(begin, at - begin), begin, ids));
    ids.push_back(match.token_id);
    at += match.length;
    begin = at;
  }
  if (options.parse_added_tokens) {
    FACET_RETURN_IF_ERROR(EncodeNormalized(text.substr(begin), begin, ids));
  } else {
    FACET_RETURN_IF_ERROR(bpe_.Encode(text, 0, ids));
  }
  return ids;
}

// The second pass: added tokens that are matched after normalisation.
Status Tokenizer::EncodeNormalized(std::string_view text,
                                   size_t text_offset,
                                   std::vector<int32_t>& ids) const {
  if (normalized_trie_.size() == 1) return bpe_.Encode(text, text_offset, ids);
  // Checked first, so that the offset in the message counts bytes of the text as it came.
  std::vector<int32_t> unused;
  FACET_RETURN_IF_ERROR(bpe_.Encode(text, text_offset, unused));
  const std::string normalized = ReplaceAll(text, " ", kSpaceMark);
  const std::string_view view = normalized;
  size_t begin = 0;
  for (size_t at = 0; at < view.size();) {
    const Match match = LongestMatch(normalized_trie_, view.substr(at));
    if (match.length == 0) {
      ++at;
      continue;
    }
    FACET_RETURN_IF_ERROR(bpe_.Encode(view.substr(begin, at - begin), 0, ids));
    ids.push_back(match.token_id);
    at += match.length;
    begin = at;
  }
  return bpe_.Encode(view.substr(begin), 0, ids);
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, SpecialTokens special_tokens) const {
  Detokenizer detokenizer(*this, special_tokens);
  std::string text;
  for (const int32_t id : ids) text += detokenizer.Append(id);
  return text += detokenizer.Finish();
}

}  // namespace facet
