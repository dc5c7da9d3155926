// Speed of the tokenizer: how long the file takes to load, then each text in turn.
//
//   tokenizer_bench TOKENIZER_JSON [TEXT_FILE]
//
// Without a text file it makes its own: words of the vocabulary itself (so that pieces are met as
// often as they are rare), one run of a single letter without any cut, and a mix of scripts.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "base/file.h"
#include "text/tokenizer.h"

namespace facet {
namespace {

constexpr int kRounds = 7;

double NowMs() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double, std::milli>(Clock::now().time_since_epoch()).count();
}

void Measure(const Tokenizer& tokenizer, const char* name, const std::string& text) {
  std::vector<double> encode_ms;
  std::vector<double> decode_ms;
  size_t num_tokens = 0;
  for (int round = 0; round < kRounds; ++round) {
    const double start = NowMs();
    const StatusOr<std::vector<int32_t>> ids = tokenizer.Encode(text);
    encode_ms.push_back(NowMs() - start);
    if (!ids.ok()) {
      std::printf("%-12s %s\n", name, MessageOf(ids.status()).c_str());
      return;
    }
    num_tokens = ids->size();
    const double decode_start = NowMs();
    const std::string back = tokenizer.Decode(*ids);
    decode_ms.push_back(NowMs() - decode_start);
  }
  std::sort(encode_ms.begin(), encode_ms.end());
  std::sort(decode_ms.begin(), decode_ms.end());
  const double median_ms = encode_ms[kRounds / 2];
  std::printf(
      "%-12s %9zu bytes %8zu tokens  encode %7.1f ms (%.1f to %.1f), %6.1f ms per 100k tokens, "
      "%5.1f MB/s; decode %6.1f ms\n",
      name, text.size(), num_tokens, median_ms, encode_ms.front(), encode_ms.back(),
      median_ms * 1e5 / static_cast<double>(num_tokens),
      static_cast<double>(text.size()) / 1e3 / median_ms, decode_ms[kRounds / 2]);
}

// Pieces that begin a word, low ids (frequent ones) more often than high.
std::string WordsOfTheVocabulary(const Tokenizer& tokenizer, size_t num_bytes) {
  std::mt19937 random(1);
  std::exponential_distribution<double> rare(8.0 / tokenizer.vocab_size());
  std::string text;
  while (text.size() < num_bytes) {
    const auto id = static_cast<int32_t>(rare(random));
    const std::string_view bytes = tokenizer.Bytes(id);
    if (tokenizer.IsAdded(id) || !bytes.starts_with(' ')) continue;
    text += bytes;
    if (random() % 40 == 0) text += random() % 4 == 0 ? ".\n\n" : ", ";
  }
  return text;
}

std::string MixOfScripts(size_t num_bytes) {
  static const char* const kWords[] = {
      "größer ",      "дело ",  "分词模型",    "안녕하세요 ",
      "مرحبا ",       "दुनिया ", "x = f(y);\n", "    return 1.5e-3;\n",
      "🙂👍🏽 "};
  std::mt19937 random(2);
  std::string text;
  while (text.size() < num_bytes) text += kWords[random() % std::size(kWords)];
  return text;
}

int Main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: tokenizer_bench TOKENIZER_JSON [TEXT_FILE]\n");
    return 2;
  }
  std::vector<double> load_ms;
  for (int round = 0; round < 5; ++round) {
    const double start = NowMs();
    const StatusOr<Tokenizer> tokenizer = Tokenizer::Load(argv[1]);
    load_ms.push_back(NowMs() - start);
  }
  const StatusOr<Tokenizer> tokenizer = Tokenizer::Load(argv[1]);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", MessageOf(tokenizer.status()).c_str());
    return 1;
  }
  std::sort(load_ms.begin(), load_ms.end());
  std::printf("load         %.0f ms (%.0f to %.0f)\n", load_ms[2], load_ms.front(), load_ms.back());
  if (argc > 2) {
    const StatusOr<std::string> text = ReadFile(argv[2]);
    if (text.ok()) Measure(*tokenizer, "file", *text);
    return text.ok() ? 0 : 1;
  }
  Measure(*tokenizer, "words", WordsOfTheVocabulary(*tokenizer, 600'000));
  Measure(*tokenizer, "scripts", MixOfScripts(500'000));
  Measure(*tokenizer, "one letter", std::string(500'000, 'a'));
  Measure(*tokenizer, "newlines", std::string(500'000, '\n'));
  return 0;
}

}  // namespace
}  // namespace facet

int main(int argc, char** argv) { return facet::Main(argc, argv); }
