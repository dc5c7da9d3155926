#include "text/tokenizer_file.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace facet {
namespace {

using nlohmann::json;

constexpr int32_t kIdMax = (1 << 24) - 1;  // A bound on what a wrong file can make us allocate.
constexpr size_t kJsonDepthMax = 64;

// Streams the two large members, model.vocab and model.merges, into flat vectors and builds an
// ordinary JSON value of the rest: a JSON value of everything would take seconds and a gigabyte.
// NOLINTNEXTLINE(bugprone-exception-escape): json's move does not throw, it only may assert.
class TokenizerSax : public nlohmann::json_sax<json> {
 public:
  bool null() override { return Add(nullptr); }

  bool boolean(bool value) override { return Add(value); }

  bool number_integer(number_integer_t value) override {
    return in_vocab() ? Fail("model.vocab has a negative id") : Add(value);
  }

  bool number_unsigned(number_unsigned_t value) override {
    return in_vocab() ? AddPiece(value) : Add(value);
  }

  bool number_float(number_float_t value, const string_t& /*raw*/) override { return Add(value); }

  bool string(string_t& value) override { return in_merges() ? AddMerge(value) : Add(value); }

  bool binary(binary_t& /*value*/) override { return false; }

  bool start_object(std::size_t /*size*/) override { return Open(json::object()); }

  bool end_object() override { return Close(); }

  bool start_array(std::size_t /*size*/) override {
    if (in_merges() && open_.size() == 3) {
      merge_parts_.clear();
      return Push(nullptr);
    }
    return Open(json::array());
  }

  bool end_array() override {
    if (in_merges() && open_.size() == 4) {
      if (merge_parts_.size() != 2) return Fail("model.merges has an entry that is not a pair");
      file.merges.emplace_back(std::move(merge_parts_[0]), std::move(merge_parts_[1]));
      open_.pop_back();
      return true;
    }
    return Close();
  }

  bool key(string_t& name) override {
    if (open_.size() == 1) section_ = name;
    if (open_.size() == 2) field_ = name;
    key_ = std::move(name);
    return true;
  }

  bool parse_error(std::size_t position,
                   const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    return Fail(StrCat("not valid JSON at byte ", position));
  }

  TokenizerFile file;
  json rest;
  std::string error;

 private:
  bool in_vocab() const { return open_.size() == 3 && section_ == "model" && field_ == "vocab"; }

  bool in_merges() const { return open_.size() >= 3 && section_ == "model" && field_ == "merges"; }

  bool Fail(std::string message) {
    if (error.empty()) error = std::move(message);
    return false;
  }

  bool AddPiece(uint64_t id) {
    if (id > kIdMax) return Fail(StrCat("model.vocab has the id ", id, "; at most ", kIdMax));
    if (key_.empty()) return Fail("model.vocab has an empty piece");
    if (id >= file.pieces.size()) file.pieces.resize(id + 1);
    if (!file.pieces[id].empty()) return Fail(StrCat("model.vocab has the id ", id, " twice"));
    file.pieces[id] = std::move(key_);
    return true;
  }

  // An entry is "a b", or ["a", "b"] whose strings arrive one by one.
  bool AddMerge(std::string& text) {
    if (open_.size() == 4) {
      if (merge_parts_.size() == 2) return Fail("model.merges has an entry that is not a pair");
      merge_parts_.push_back(std::move(text));
      return true;
    }
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      return Fail("model.merges has an entry that is not a pair");
    }
    file.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    return true;
  }

  bool Add(json value) { return Place(std::move(value)) != nullptr; }

  bool Open(json value) {
    json* placed = Place(std::move(value));
    return placed != nullptr && Push(placed);
  }

  bool Push(json* container) {
    if (open_.size() >= kJsonDepthMax) return Fail(StrCat("nested deeper than ", kJsonDepthMax));
    open_.push_back(container);
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  json* Place(json value) {
    if (in_vocab() || in_merges()) {
      Fail(StrCat("model.", field_, " has an entry of the wrong type"));
      return nullptr;
    }
    if (open_.empty()) {
      rest = std::move(value);
      return &rest;
    }
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }

  std::vector<json*> open_;  // Containers begun and not ended; null for one merge pair.
  std::string section_;      // Current member of the whole, then of that: "model", "vocab".
  std::string field_;
  std::string key_;
  std::vector<std::string> merge_parts_;
};

// Members of a JSON object; null where a member, or the object itself, is missing.
const json& At(const json& value, const char* name) {
  static const json kNone;
  if (!value.is_object()) return kNone;
  const auto member = value.find(name);
  return member == value.end() ? kNone : *member;
}

bool IsText(const json& value, std::string_view text) {
  return value.is_string() && value.get_ref<const std::string&>() == text;
}

// Null, false, zero and the empty string all mean "not used".
bool IsUnused(const json& value) {
  return value.is_null() || value == json(false) || value == json("") || value == json(0) ||
         value == json(0.0);
}

Status CheckModel(const json& model) {
  if (!model.is_object()) return InvalidArgument("model is missing");
  if (const json& type = At(model, "type"); !type.is_null() && !IsText(type, "BPE")) {
    return InvalidArgument("model.type is ", type.dump(), "; only \"BPE\" is supported");
  }
  for (const char* name :
       {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"}) {
    if (!IsUnused(At(model, name))) {
      return InvalidArgument("model.", name, " is ", At(model, name).dump(), "; not supported");
    }
  }
  if (At(model, "byte_fallback") != json(true)) {
    return InvalidArgument("model.byte_fallback is not true; only byte fallback is supported");
  }
  return absl::OkStatus();
}

// A pattern is written {"String": " "}; a regular expression would be {"Regex": ...}.
bool IsSpacePattern(const json& step) { return IsText(At(At(step, "pattern"), "String"), " "); }

Status CheckNormalizer(const json& normalizer) {
  const json* step = &normalizer;
  if (IsText(At(normalizer, "type"), "Sequence")) {
    const json& steps = At(normalizer, "normalizers");
    if (steps.is_array() && steps.size() == 1) step = &steps[0];
  }
  if (IsText(At(*step, "type"), "Replace") && IsSpacePattern(*step) &&
      IsText(At(*step, "content"), "\u2581")) {
    return absl::OkStatus();
  }
  return InvalidArgument("normalizer is ", normalizer.dump(),
                         "; only Replace of a space by U+2581 is supported");
}

// A split at spaces never fires, because the normaliser leaves none.
Status CheckPreTokenizer(const json& pre_tokenizer) {
  if (pre_tokenizer.is_null()) return absl::OkStatus();
  if (IsText(At(pre_tokenizer, "type"), "Split") && IsSpacePattern(pre_tokenizer) &&
      At(pre_tokenizer, "invert") != json(true)) {
    return absl::OkStatus();
  }
  return InvalidArgument("pre_tokenizer is ", pre_tokenizer.dump(),
                         "; only Split at a space is supported");
}

Status CheckDecoder(const json& decoder) {
  if (decoder.is_null()) return absl::OkStatus();
  const json& steps = At(decoder, "decoders");
  bool known = IsText(At(decoder, "type"), "Sequence") && steps.is_array() && steps.size() == 3;
  known = known && IsText(At(steps[0], "type"), "Replace") &&
          IsText(At(At(steps[0], "pattern"), "String"), "\u2581") &&
          IsText(At(steps[0], "content"), " ") && IsText(At(steps[1], "type"), "ByteFallback") &&
          IsText(At(steps[2], "type"), "Fuse");
  if (known) return absl::OkStatus();
  return InvalidArgument("decoder is ", decoder.dump(),
                         "; only Replace of U+2581, ByteFallback, Fuse is supported");
}

// Whether the post-processor puts <bos> in front of a single text. It may do nothing else.
StatusOr<bool> PostProcessorAddsBos(const json& post_processor) {
  if (post_processor.is_null()) return false;
  const json& single = At(post_processor, "single");
  if (IsText(At(post_processor, "type"), "TemplateProcessing") && single.is_array() &&
      !single.empty() && At(single.back(), "Sequence").is_object()) {
    if (single.size() == 1) return false;
    if (single.size() == 2 && IsText(At(At(single[0], "SpecialToken"), "id"), "<bos>")) return true;
  }
  return InvalidArgument("post_processor is ", post_processor.dump(),
                         "; only a template that adds <bos> in front is supported");
}

StatusOr<AddedToken> ParseAddedToken(const json& entry) {
  const json& id = At(entry, "id");
  const json& content = At(entry, "content");
  if (!id.is_number_unsigned() || id.get<uint64_t>() > kIdMax) {
    return InvalidArgument("id is ", id.dump(), "; it must be in [0, ", kIdMax, "]");
  }
  if (!content.is_string() || content.get_ref<const std::string&>().empty()) {
    return InvalidArgument("content must be a string that is not empty");
  }
  for (const char* name : {"single_word", "lstrip", "rstrip"}) {
    if (!IsUnused(At(entry, name))) {
      return InvalidArgument(name, " is set for ", content.dump(), "; not supported");
    }
  }
  return AddedToken{.id = id.get<int32_t>(),
                    .content = content.get<std::string>(),
                    .special = At(entry, "special") == json(true),
                    .normalized = At(entry, "normalized") == json(true)};
}

Status ReadAddedTokens(const json& entries, TokenizerFile& file) {
  if (entries.is_null()) return absl::OkStatus();
  if (!entries.is_array()) return InvalidArgument("added_tokens must be an array");
  for (size_t i = 0; i < entries.size(); ++i) {
    StatusOr<AddedToken> token = ParseAddedToken(entries[i]);
    if (!token.ok()) return Annotate(token.status(), StrCat("added_tokens[", i, "]"));
    const auto id = static_cast<size_t>(token->id);
    if (id >= file.pieces.size()) file.pieces.resize(id + 1);
    std::string& piece = file.pieces[id];
    if (!piece.empty() && piece != token->content) {
      return InvalidArgument("added_tokens[", i, "] gives the id ", id, " to ", token->content,
                             "; model.vocab has ", piece, " there");
    }
    piece = token->content;
    file.added_tokens.push_back(*std::move(token));
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<TokenizerFile> ParseTokenizerFile(std::string_view text) {
  TokenizerSax sax;
  if (!json::sax_parse(text.begin(), text.end(), &sax)) return InvalidArgument(sax.error);
  if (!sax.rest.is_object()) return InvalidArgument("the file is not a JSON object");
  FACET_RETURN_IF_ERROR(CheckModel(At(sax.rest, "model")));
  FACET_RETURN_IF_ERROR(CheckNormalizer(At(sax.rest, "normalizer")));
  FACET_RETURN_IF_ERROR(CheckPreTokenizer(At(sax.rest, "pre_tokenizer")));
  FACET_RETURN_IF_ERROR(CheckDecoder(At(sax.rest, "decoder")));
  TokenizerFile file = std::move(sax.file);
  FACET_ASSIGN_OR_RETURN(file.adds_bos, PostProcessorAddsBos(At(sax.rest, "post_processor")));
  FACET_RETURN_IF_ERROR(ReadAddedTokens(At(sax.rest, "added_tokens"), file));
  if (file.pieces.empty()) return InvalidArgument("model.vocab is missing or empty");
  return file;
}

}  // namespace facet
