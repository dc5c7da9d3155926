#include "worker/engine/step_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>

namespace facet::worker {
namespace {

constexpr int kNumTerms = 5;
using Terms = std::array<double, kNumTerms>;

// What a step has of each term, in the order of StepModel's members.
Terms TermsOf(std::span<const StepRow> rows) {
  Terms terms = {1};
  for (const StepRow& row : rows) {
    terms[row.is_decode ? 3 : 1] += row.num_tokens;
    terms[row.is_decode ? 4 : 2] += row.num_tokens * row.context;
  }
  return terms;
}

StepModel ModelOf(const Terms& coefficients) {
  return {.base_ns = coefficients[0],
          .prefill_token_ns = coefficients[1],
          .prefill_token_context_ns = coefficients[2],
          .decode_row_ns = coefficients[3],
          .decode_context_ns = coefficients[4],
          .predicts = true};
}

// Of the relative error: each step's terms over its time; what is to be met is 1.
struct NormalEquations {
  std::array<Terms, kNumTerms> matrix{};
  Terms right{};

  void Add(const Terms& scaled) {
    for (int i = 0; i < kNumTerms; ++i) {
      right[i] += scaled[i];
      for (int j = 0; j < kNumTerms; ++j) matrix[i][j] += scaled[i] * scaled[j];
    }
  }
};

// Solves for the terms in the mask, the others being 0, by Cholesky's decomposition; nothing if
// they are not independent.
std::optional<Terms> Solve(const NormalEquations& equations, unsigned mask) {
  std::array<Terms, kNumTerms> lower{};
  Terms y{};
  for (int i = 0; i < kNumTerms; ++i) {
    if ((mask >> i & 1) == 0) continue;
    y[i] = equations.right[i];
    for (int j = 0; j <= i; ++j) {
      if ((mask >> j & 1) == 0) continue;
      double sum = equations.matrix[i][j];
      for (int k = 0; k < j; ++k) sum -= lower[i][k] * lower[j][k];
      if (j < i) {
        lower[i][j] = sum / lower[j][j];
        y[i] -= lower[i][j] * y[j];
      } else if (sum > 1e-12 * equations.matrix[i][i]) {
        lower[i][i] = std::sqrt(sum);
        y[i] /= lower[i][i];
      } else {
        return std::nullopt;
      }
    }
  }
  Terms x{};
  for (int i = kNumTerms - 1; i >= 0; --i) {
    if ((mask >> i & 1) == 0) continue;
    x[i] = y[i];
    for (int k = i + 1; k < kNumTerms; ++k) x[i] -= lower[k][i] * x[k];
    x[i] /= lower[i][i];
  }
  return x;
}

// The best of all choices of terms whose solution is not negative: with five terms there are 31.
Terms SolveNonNegative(const NormalEquations& equations) {
  Terms best{};
  double best_gain = 0;
  for (unsigned mask = 1; mask < 1U << kNumTerms; ++mask) {
    const std::optional<Terms> x = Solve(equations, mask);
    if (!x || *std::min_element(x->begin(), x->end()) < 0) continue;
    double gain = 0;  // At a minimum the squared error is Σ 1 - right · x.
    for (int i = 0; i < kNumTerms; ++i) gain += equations.right[i] * (*x)[i];
    if (gain <= best_gain) continue;
    best_gain = gain;
    best = *x;
  }
  return best;
}

// Leaves one sample out; -1: none.
StepModel Fit(const std::vector<Terms>& scaled, int without) {
  NormalEquations equations;
  for (int i = 0; i < static_cast<int>(scaled.size()); ++i) {
    if (i != without) equations.Add(scaled[i]);
  }
  return ModelOf(SolveNonNegative(equations));
}

}  // namespace

double StepModel::MarginalNs(const StepRow& row) const {
  const double token = row.is_decode ? decode_row_ns : prefill_token_ns;
  const double context = row.is_decode ? decode_context_ns : prefill_token_context_ns;
  return row.num_tokens * (token + context * row.context);
}

double StepModel::StepNs(std::span<const StepRow> rows) const {
  double ns = base_ns;
  for (const StepRow& row : rows) ns += MarginalNs(row);
  return ns;
}

double StepModel::PrefillTokensPerSecond(int32_t chunk_tokens) const {
  const StepRow chunk{.num_tokens = chunk_tokens, .context = StepRow::MeanContext(0, chunk_tokens)};
  const double ns = StepNs({&chunk, 1});
  return ns > 0 ? chunk_tokens * 1e9 / ns : 0;
}

std::vector<uint64_t> StepModel::Weights(std::span<const StepRow> rows) const {
  constexpr double kPicosecondsMax = 1e16;  // 10^4 s; kStepWeightMax
  std::vector<uint64_t> weights;
  weights.reserve(rows.size());
  for (const StepRow& row : rows) {
    const double ns = MarginalNs(row) + base_ns / static_cast<double>(rows.size());
    weights.push_back(static_cast<uint64_t>(std::clamp(
        std::round(1000 * ns), 1.0, kPicosecondsMax / static_cast<double>(rows.size()))));
  }
  return weights;
}

std::string StepModel::ToYaml() const {
  char text[256];
  std::snprintf(text, sizeof(text),
                "{base_ns: %.6g, prefill_token_ns: %.6g, prefill_token_context_ns: %.6g, "
                "decode_row_ns: %.6g, decode_context_ns: %.6g}",
                base_ns, prefill_token_ns, prefill_token_context_ns, decode_row_ns,
                decode_context_ns);
  return text;
}

StatusOr<StepFit> FitStepModel(std::span<const StepSample> samples) {
  std::vector<Terms> scaled;
  scaled.reserve(samples.size());
  bool prefill = false;
  bool decode = false;
  for (const StepSample& sample : samples) {
    Terms terms = TermsOf(sample.rows);
    prefill |= terms[1] > 0;
    decode |= terms[3] > 0;
    for (double& term : terms) term /= std::max(1.0, static_cast<double>(sample.device_ns));
    scaled.push_back(terms);
  }
  if (scaled.size() < kNumTerms + 2 || !prefill || !decode) {
    return FailedPrecondition("there were only ", scaled.size(), " steps to fit to",
                              prefill && decode ? "" : ", of one phase");
  }
  StepFit fit = {.model = Fit(scaled, -1)};
  for (int i = 0; i < static_cast<int>(scaled.size()); ++i) {
    const auto measured = static_cast<double>(samples[i].device_ns);
    const double predicted = Fit(scaled, i).StepNs(samples[i].rows);
    fit.error_ratio += std::abs(predicted - measured) / std::max(1.0, measured);
  }
  fit.error_ratio /= static_cast<double>(scaled.size());
  return fit;
}

}  // namespace facet::worker
