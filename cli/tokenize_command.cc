#include "cli/tokenize_command.h"

#include <filesystem>
#include <iostream>
#include <memory>

#include "cli/json_lines.h"
#include "text/conversation.h"
#include "text/tokenizer.h"

namespace facet {
namespace {

StatusOr<std::string> EncodeLine(const Tokenizer& tokenizer, const std::string& line) {
  FACET_ASSIGN_OR_RETURN(const OrderedJson text, ParseBoundedJson(line));
  if (!text.is_string()) return InvalidArgument("a JSON string is expected");
  FACET_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                         tokenizer.Encode(text.get_ref<const std::string&>()));
  return OrderedJson(ids).dump();
}

StatusOr<std::string> DecodeLine(const Tokenizer& tokenizer, const std::string& line) {
  FACET_ASSIGN_OR_RETURN(const OrderedJson list, ParseBoundedJson(line));
  if (!list.is_array()) return InvalidArgument("a JSON array of token ids is expected");
  std::vector<int32_t> ids;
  for (const OrderedJson& id : list) {
    if (!id.is_number_unsigned() ||
        id.get<uint64_t>() >= static_cast<uint64_t>(tokenizer.vocab_size())) {
      return InvalidArgument("token id ", id.dump(), " is not in [0, ", tokenizer.vocab_size(),
                             ")");
    }
    ids.push_back(id.get<int32_t>());
  }
  return OrderedJson(tokenizer.Decode(ids)).dump();
}

}  // namespace

Status Tokenize(const TokenizeOptions& options, std::istream& in, std::ostream& out) {
  const std::filesystem::path file =
      std::filesystem::path(options.model_directory) / "tokenizer.json";
  FACET_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Load(file.string()));
  return ConvertLines(in, out, [&](const std::string& line) {
    return options.decode ? DecodeLine(tokenizer, line) : EncodeLine(tokenizer, line);
  });
}

void AddTokenizeCommand(CLI::App& app) {
  const auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command =
      app.add_subcommand("tokenize", "Text to token ids, one JSON value a line; --decode: back");
  command->add_option("--model", options->model_directory, "Directory that holds tokenizer.json")
      ->required();
  command->add_flag("--decode", options->decode, "Read lists of ids and write texts");
  command->footer("Example: echo '\"Hello\"' | facet tokenize --model models/gemma-4-E2B-it");
  command->callback(
      [options] { ExitOnError("tokenize", Tokenize(*options, std::cin, std::cout)); });
}

}  // namespace facet
