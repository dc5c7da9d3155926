// Plausible mistakes in reading the model, for the test that shows the oracle would notice each.
//
// In a normal build Misread() is a constant false and costs nothing. The golden tests build the
// reference ops and the model a second time with FACET_MISREADINGS and switch one mistake on at a
// time. Only reference ops and worker/model ask; the fast backends hold no such branch.
#pragma once

namespace facet::kernels {

enum class Misreading {
  kNone,
  kNormPlusOne,
  kEpsHardCoded,
  kSoftcapHardCoded,
  kSoftcapIgnored,
  kGeluErf,
  kWindowTooLong,
  kWindowTooShort,
  kScoresScaled,
  kRopeOnV,
  kVAfterKNorm,
  kVNotNormed,
  kKNotNormed,
  kQNotNormed,
  kRopeInterleaved,
  kHeadsInterleaved,
  kRouterInputNormed,
  kRouterScaleIgnored,
  kRouterSizeFactorIgnored,
  kRouterNotRenormalised,
  kPerExpertScaleIgnored,
  kExpertUpFirst,
  kExpertsReadDenseInput,
  kMoePostNormsSwapped,
  kPleGateNormed,
  kPleGeluIgnored,
  kPleRootHalfIgnored,
  kPleTokenScaleIgnored,
  kPleContextScaleIgnored,
  kPleNormIgnored,
  kPleScalarBeforeInject,
  kLayerScalarIgnored,
  kPostAttentionNormIgnored,
  kPostFeedforwardNormIgnored,
  kResidualAfterNorm,
  kHeadScaled,
  // Mistakes of worker/model.
  kEmbeddingScaleIgnored,
  kEmbeddingScaleRounded,
  kDoubleAngles,
  kRopeThetasSwapped,
  kRopeClassicPartial,
  kRopePartialIgnored,
  kRopeExponentOverRotated,
  kDoubleWideIgnored,
  kSharedLayersReadFirstDonor,
  kSharedLayersOwnKv,  // Of the files that hold k and v for them too.
  kPlaceholderKept,
  kPleLayersReversed,
  kLayerTypesShifted,
  kGlobalKvHeadsIgnored,
};

inline constexpr Misreading kLastMisreading = Misreading::kGlobalKvHeadsIgnored;

#ifdef FACET_MISREADINGS
// The one mistake in force.
inline Misreading active_misreading = Misreading::kNone;

inline bool Misread(Misreading mistake) { return mistake == active_misreading; }
#else
constexpr bool Misread(Misreading) { return false; }
#endif

}  // namespace facet::kernels
