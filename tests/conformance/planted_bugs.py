#!/usr/bin/env python3
"""Bugs of the kinds that kernels have, each planted into the sources of kernels/cuda.

    planted_bugs.py DIR    writes those sources into DIR with every bug in them, all switched off

A bug is switched on by PlantedBug(its number) (planted_bug.h), so that one build holds all of them
and the kernels themselves hold none. planted_bugs_test.py says which are caught, and how.
"""

import dataclasses
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNELS = "kernels/cuda"


@dataclasses.dataclass(frozen=True)
class Bug:
    name: str
    file: str  # In kernels/cuda.
    after: str  # The bug is in the first `right` after this text, which the file holds once.
    right: str  # A statement, with its semicolon, or an expression.
    wrong: str
    case: str  # GoogleTest filter of what should notice.
    modes: str = "order=forward,copies=lazy"  # Of the emulator.


ATTEND = "    Attend(const AttendParams params) {"
ATTENTION = "*CudaAttentionTest.IsLikeTheReference/"
SLIDING = ATTENTION + "prefill_of_sliding_layers_in_turn"
SIDE_BY_SIDE = ATTENTION + "few_columns_of_a_chunk_go_side_by_side"
WARPGROUPS = "*WarpgroupAttentionTest.IsLikeTheReference/"
SHARED_STEP = ATTENTION + "decode_and_chunks_share_a_step"
BARRIER = "ptx::SyncThreads();"
LINEAR = "*CudaLinearTest.AgreesWithTheReference/"
SUMS = "*LinearSumsTest.*/*"
OPS = "*/ConformanceTest."
SAMPLING = "*CudaSampleTest.ARowAlone/"
ROUTING = "*/MoeRoutingTest."
TILED = "TiledKernel(Work work) {"
STREAM = "StreamKernel(Work work) {"

BUGS = (
    # Barriers.
    Bug("no barrier between the maxima and their readers", "attention.cu",
        "PublishMaxima<Shape>(s, tiles.parts);", BARRIER, ";", SHARED_STEP),
    Bug("no barrier before the values of the tile before are overwritten", "attention.cu",
        "ptx::CpAsyncWait<2 * kStages - 2>();", BARRIER, ";", SLIDING),
    Bug("no barrier between the parts of a block's sum", "row_norm.cuh",
        "warp_sums[threadIdx.x / 32] = warp_sum;", BARRIER, ";", LINEAR + "*few_rows"),
    Bug("no barrier between a product's segments and their sum", "linear.cuh",
        "to[i * kTileRows + Tile::kSumStride + 8] = sum[3];", BARRIER, ";", SUMS),
    Bug("no barrier after a stage has landed", "linear.cuh",
        "ptx::CpAsyncWait<Tile::kStages - 2>();", BARRIER, ";", SUMS),
    Bug("no barrier between clearing a histogram and counting", "sample_select.cuh",
        "histogram[thread] = 0;", BARRIER, ";", SAMPLING + "all_equal", "order=reverse"),
    Bug("a barrier that one warp does not reach", "moe.cu",
        "ptx::AtomicAdd(&mine[expert_of(i)], 1);", BARRIER,
        "if (warp > 0) ptx::SyncThreads();", OPS + "Moe*_1"),
    # Asynchronous copies.
    Bug("no wait for the keys", "attention.cu", ATTEND,
        "ptx::CpAsyncWait<2 * kStages - 2>();", ";", SLIDING),
    Bug("a wait that leaves one group too many under way", "attention.cu", "// Values.\n",
        "ptx::CpAsyncWait<2 * kStages - 1>();", "ptx::CpAsyncWait<2 * kStages>();", SLIDING),
    Bug("a wait that leaves one stage too many under way", "linear.cuh", TILED,
        "ptx::CpAsyncWait<Tile::kStages - 2>();", "ptx::CpAsyncWait<Tile::kStages - 1>();", SUMS),
    Bug("a stage that is filled while it is read", "linear.cuh", TILED,
        "load_stage(stage + Tile::kStages - 1);", "load_stage(stage + Tile::kStages);", SUMS),
    # Products of warpgroups.
    Bug("sums that are shrunk while a product adds to them", "attention_wgmma.cu",
        "Weigh<Shape>(room, half, s, max, sum, factor);\n    EndValues", "EndValues<Shape>(o);", ";",
        WARPGROUPS + "a_chunk_of_e4b*"),
    Bug("a piece that is read before it is full", "attention_wgmma.cu",
        "FACET_DEVICE void BeginValues(",
        "ptx::MBarrierWait(room.full + place.index, place.parity);", ";",
        WARPGROUPS + "a_chunk_of_26b*"),
    Bug("a product without the fence between proxies", "attention_wgmma.cu",
        "FACET_DEVICE void BeginScores(", "ptx::FenceProxyAsync();", ";",
        WARPGROUPS + "a_window_of_one"),
    Bug("a matrix described with the wrong stride", "attention_wgmma.cu",
        "ptx::MnMajor(values + step * 16 * kRowElements, kEightRows,", "kTileKeys * kRowBytes",
        "kEightRows", WARPGROUPS + "a_window_of_one"),
    Bug("no barrier before the halves' weights are read", "attention_wgmma.cu",
        "Lane() % 4 * 2) = pair;", "Meet();", ";", WARPGROUPS + "a_chunk_of_26b*"),
    # Warps.
    Bug("a wrong lane in the sum over rows", "attention.cuh",
        "FACET_DEVICE float SumOverRows(float value) {", "ptx::ShuffleXor(value, mask)",
        "ptx::ShuffleXor(value, mask + 1)", SHARED_STEP),
    Bug("a shuffle that half of the warp skips", "row_norm.cuh",
        "FACET_DEVICE float WarpSum(float value) {", "value += ptx::ShuffleXor(value, mask);",
        "if (threadIdx.x % 32 < 16 || mask < 16) value += ptx::ShuffleXor(value, mask);",
        LINEAR + "*few_rows"),
    Bug("a vote that counts its own lane", "moe.cu", "LanesAlike(expert, num_experts);",
        "((1U << lane) - 1)", "((2U << lane) - 1)", OPS + "Moe*_1"),
    # Shared memory.
    Bug("sums that begin with what shared memory held", "attention.cu", ATTEND,
        "tiles.total_sum[column] = 0;", ";", SLIDING),
    Bug("shared memory of half the size that is used", "linear.cuh",
        "cudaError_t LaunchStream(", "Tile::kSums * sizeof(float)", "Tile::kSums * sizeof(Bf16)",
        SUMS),
    # Off by one.
    Bug("a query that does not see itself", "attention.cuh", "FACET_DEVICE void Mask(",
        "key_of_score <= position", "key_of_score < position", SHARED_STEP),
    Bug("a window of one key more", "attention.cuh", "FACET_DEVICE void Mask(",
        "key_of_score > position - window", "key_of_score >= position - window", SLIDING),
    Bug("the last tile is read beyond what is stored", "attention.cuh",
        "FACET_DEVICE void LoadTile(", "present && first + row < rows.end", "present",
        SHARED_STEP),
    Bug("a split that ends one tile early", "attention.cu", ATTEND,
        "split_begin + kSplitTiles", "split_begin + kSplitTiles - 1", SIDE_BY_SIDE),
    Bug("keys one row further in their block", "attention_prepare.cuh",
        "auto* cache = reinterpret_cast", "position % kBlockTokens",
        "(position + 1) % kBlockTokens", SHARED_STEP),
    Bug("rows of the upper half one too low", "linear.cuh", "TiledKernel(Work work) {",
        "lane / 4 + r / 2 * 8", "lane / 4 + r / 2 * 7", SUMS),
    Bug("the tile of an expert begins one assignment late", "moe.cu", "plan.tiles[tile_begins",
        "begins[expert] + i * plan.tile_tokens", "begins[expert] + 1 + i * plan.tile_tokens",
        OPS + "Moe*_1"),
    Bug("a warp lists its assignments at the same places again", "moe.cu",
        "plan.list[begins[expert]", "mine[expert] += ptx::CountBits(alike);", ";",
        ROUTING + "MoeUpAndDown*_1"),
    # Sums and state.
    Bug("earlier sums of a softmax are not shrunk", "attention.cuh", "void AddValues(",
        "o[d][n][e] *= factor[e % 2];", ";", SLIDING),
    Bug("segments added downwards", "linear.cuh", STREAM,
        "from[s * Tile::kRoundTokens * Tile::kSumStride]",
        "from[(kSegments - 1 - s) * Tile::kRoundTokens * Tile::kSumStride]", SUMS),
    Bug("a counter of arrivals that is not reset", "arrive_last.cuh",
        "FACET_DEVICE bool ArriveLast(", "*counter = 0;", ";", "Cuts/*/1"),
    Bug("parts of a row that write over each other's keys", "sample.cu",
        "if (thread < num_kept) ", "thread * row.num_parts + part",
        "thread * row.num_parts", SAMPLING + "all_equal"),
    Bug("a layer that goes by the choices of the one before", "moe.cu",
        "const PlannedChoices choices{", "as_planned", "choices == planned_",
        ROUTING + "EachLayer*_1"),
)


def planted(number, bug, text):
    """text of the bug's file, with the bug in it; lines keep their numbers."""
    anchor = text.find(bug.after)
    begin = text.find(bug.right, anchor)
    if text.count(bug.after) != 1 or begin < 0:
        sys.exit(f"\"{bug.name}\" needs a new place: {bug.file} holds {bug.after!r} "
                 f"{text.count(bug.after)} times, and then {bug.right!r} at {begin}")
    end = begin + len(bug.right)
    if bug.right.endswith(";"):
        code = f"{{ if (PlantedBug({number})) {{ {bug.wrong} }} else {{ {bug.right} }} }}"
    else:
        code = f"(PlantedBug({number}) ? ({bug.wrong}) : ({bug.right}))"
    return text[:begin] + code + text[end:]


def write_sources(directory):
    to = pathlib.Path(directory) / KERNELS
    to.mkdir(parents=True, exist_ok=True)
    for name in sorted({bug.file for bug in BUGS}):
        text = (ROOT / KERNELS / name).read_text()
        for number, bug in enumerate(BUGS, start=1):
            if bug.file == name:
                text = planted(number, bug, text)
        (to / name).write_text(text)


if __name__ == "__main__":
    write_sources(sys.argv[1])
