#!/usr/bin/env python3
"""Times decode attention in Triton on the work of kernel_bench: triton_peers.py RESULTS_JSONL.

Keys and values lie in blocks of 16 tokens in random order, as ours do. A first kernel takes a piece of one
sequence's keys for all query heads of one KV head, a second one merges the pieces. Of several tile sizes
and numbers of pieces the fastest counts. Every output is held against PyTorch's attention in float32 before
it is timed as in torch_peers.py; whatever fails is a line that says why, and the next size is tried.
"""

import sys

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

import peers
from torch_peers import NumSets, Random, RunPeers, TimeUs

BLOCK_TOKENS = 16
LOG2_E = 1.4426950408889634
# Keys of a tile, warps, stages of the pipeline, programs for each SM.
CONFIGS = ((32, 4, 2, 2), (64, 4, 2, 2), (64, 8, 2, 4), (32, 4, 3, 4))
# As in the conformance of our kernels: 2.5 bf16 steps of the output's scale.
TOLERANCE = 2.5 / 256


@triton.jit
def AttendPiece(query, keys, values, blocks, partial, log_sums, num_keys, piece_keys, blocks_each, kv_heads,
                group, LOG2_E: tl.constexpr, BLOCK_TOKENS: tl.constexpr, DIM: tl.constexpr,
                TILE: tl.constexpr):
    """partial[row, piece, :] = attention over the piece's keys, log_sums its weight in base 2."""
    sequence = tl.program_id(0) // kv_heads
    head = tl.program_id(0) % kv_heads
    piece = tl.program_id(1)
    lanes = tl.arange(0, 16)  # Tensor cores take 16 rows at least; only the first `group` count.
    dims = tl.arange(0, DIM)
    rows = tl.program_id(0) * group + lanes
    is_row = lanes < group
    q = tl.load(query + rows[:, None] * DIM + dims[None, :], mask=is_row[:, None], other=0.0)
    begin = piece * piece_keys
    end = tl.minimum(begin + piece_keys, num_keys)
    most = tl.full([16], -float('inf'), tl.float32)
    total = tl.zeros([16], tl.float32)
    sums = tl.zeros([16, DIM], tl.float32)
    for start in range(begin, end, TILE):
        token = start + tl.arange(0, TILE)
        is_key = token < end
        block = tl.load(blocks + sequence * blocks_each + token // BLOCK_TOKENS, mask=is_key, other=0)
        place = (block.to(tl.int64) * kv_heads + head) * BLOCK_TOKENS + token % BLOCK_TOKENS
        at = place[:, None] * DIM + dims[None, :]
        key = tl.load(keys + at, mask=is_key[:, None], other=0.0)
        scores = tl.dot(q, tl.trans(key)) * LOG2_E
        scores = tl.where(is_key[None, :], scores, -float('inf'))
        new_most = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp2(scores - new_most[:, None])
        rescale = tl.exp2(most - new_most)
        value = tl.load(values + at, mask=is_key[:, None], other=0.0)
        total = total * rescale + tl.sum(weights, 1)
        sums = sums * rescale[:, None] + tl.dot(weights.to(tl.bfloat16), value)
        most = new_most
    out = rows * tl.num_programs(1) + piece
    tl.store(partial + out[:, None] * DIM + dims[None, :], sums / total[:, None], mask=is_row[:, None])
    tl.store(log_sums + out, most + tl.log2(total), mask=is_row)


@triton.jit
def MergePieces(partial, log_sums, out, num_pieces, DIM: tl.constexpr):
    row = tl.program_id(0)
    dims = tl.arange(0, DIM)
    most = tl.load(log_sums + row * num_pieces)
    total = most * 0.0 + 1.0
    sums = tl.load(partial + row * num_pieces * DIM + dims)
    for piece in range(1, num_pieces):
        log_sum = tl.load(log_sums + row * num_pieces + piece)
        new_most = tl.maximum(most, log_sum)
        rescale = tl.exp2(most - new_most)
        weight = tl.exp2(log_sum - new_most)
        sums = sums * rescale + tl.load(partial + (row * num_pieces + piece) * DIM + dims) * weight
        total = total * rescale + weight
        most = new_most
    tl.store(out + row * DIM + dims, (sums / total).to(tl.bfloat16))


class Decode:
    """The inputs of one size, and calls on them."""

    def __init__(self, sizes):
        self.batch, self.kv_heads, self.dim = sizes['sequences'], sizes['kv_heads'], sizes['head_dim']
        self.heads, self.num_keys = sizes['q_heads'], sizes['keys']
        self.blocks_each = triton.cdiv(self.num_keys, BLOCK_TOKENS)
        shape = (self.batch * self.blocks_each, self.kv_heads, BLOCK_TOKENS, self.dim)
        bytes_of_set = 4 * self.batch * self.kv_heads * self.num_keys * self.dim
        self.sets = [(Random(*shape), Random(*shape)) for _ in range(NumSets(bytes_of_set))]
        self.blocks = torch.randperm(self.batch * self.blocks_each, device='cuda').to(torch.int32)
        self.query = Random(self.batch, self.heads, self.dim) * 10  # So that some keys count more.
        self.out = torch.empty_like(self.query)

    def CallOf(self, config):
        tile, warps, stages, programs = config
        num_sms = torch.cuda.get_device_properties(0).multi_processor_count
        wanted = triton.cdiv(programs * num_sms, self.batch * self.kv_heads)
        piece_keys = max(128, triton.cdiv(triton.cdiv(self.num_keys, wanted), tile) * tile)
        pieces = triton.cdiv(self.num_keys, piece_keys)
        rows = self.batch * self.heads
        partial = torch.empty(rows, pieces, self.dim, device='cuda', dtype=torch.float32)
        log_sums = torch.empty(rows, pieces, device='cuda', dtype=torch.float32)

        def Call(i):
            keys, values = self.sets[i % len(self.sets)]
            AttendPiece[(self.batch * self.kv_heads, pieces)](
                self.query, keys, values, self.blocks, partial, log_sums, self.num_keys, piece_keys,
                self.blocks_each, self.kv_heads, self.heads // self.kv_heads, LOG2_E=LOG2_E,
                BLOCK_TOKENS=BLOCK_TOKENS, DIM=self.dim, TILE=tile, num_warps=warps, num_stages=stages)
            MergePieces[(rows,)](partial, log_sums, self.out, pieces, DIM=self.dim, num_warps=4)

        return Call

    def Wanted(self):
        """What Call(0) has to give, a sequence at a time: float32 takes room."""
        wanted = []
        for sequence, blocks in enumerate(self.blocks.view(self.batch, self.blocks_each).long()):
            key, value = (part[blocks].transpose(0, 1).reshape(self.kv_heads, -1, self.dim)[:, :self.num_keys]
                          .float().repeat_interleave(self.heads // self.kv_heads, dim=0)
                          for part in self.sets[0])
            query = self.query[sequence].float()[:, None]
            wanted.append(F.scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0])
        return torch.stack(wanted)


def Attention(sizes):
    """Times of the fastest configuration, each of which must be right."""
    decode = Decode(sizes)
    wanted = decode.Wanted()
    best, problem = None, None
    for config in CONFIGS:
        try:
            call = decode.CallOf(config)
            call(0)
            off = ((decode.out.float() - wanted).abs().max() / wanted.abs().max()).item()
            if not off <= TOLERANCE:
                raise ValueError(f'off by {off:.4f} of the output\'s scale')
            us = TimeUs(call)
        except Exception as error:  # It does not compile, or takes more shared memory than there is.
            problem = error
            print(f'{config}: {peers.FirstLine(error)}')
            continue
        if best is None or us[len(us) // 2] < best[len(best) // 2]:
            best = us
    if best is None:
        raise problem
    return best


def main():
    print(f'Triton {triton.__version__}')
    RunPeers(sys.argv[1], {peers.TRITON: Attention})


if __name__ == '__main__':
    main()
