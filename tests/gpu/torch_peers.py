#!/usr/bin/env python3
"""Times PyTorch's kernels on the work of kernel_bench: torch_peers.py RESULTS_JSONL.

Reads the sizes of attention and product cases from the file and appends one line for each that it timed.
As in kernel_bench: a CUDA graph of enough calls for a millisecond, replayed nine times with an event after
each; calls take turns among inputs larger than the L2 cache; the median. Keys and values are contiguous
here, not in blocks, which favours PyTorch. What PyTorch has no kernel for has a line that says why.
"""

import json
import sys

import torch
import torch.nn.functional as F

import peers

REPLAYS = 9
REPLAY_US = 1000
CALLS_MAX = 512
ROTATION_BYTES = 256 << 20


def Random(*shape):
    return torch.randn(*shape, device='cuda', dtype=torch.bfloat16) * 0.1


def TimeUs(call):
    """Median, least and most microseconds of call(i), the i-th call."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(REPLAYS + 1)]
        for i in range(3):
            events[0].record()
            call(i)
            events[1].record()
        stream.synchronize()
        estimate_us = max(0.1, events[0].elapsed_time(events[1]) * 1e3)
        calls = min(CALLS_MAX, max(1, int(REPLAY_US / estimate_us)))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for i in range(calls):
                call(i)
        graph.replay()
        for event in events[:-1]:
            event.record()
            graph.replay()
        events[-1].record()
        stream.synchronize()
    return sorted(events[i].elapsed_time(events[i + 1]) * 1e3 / calls for i in range(REPLAYS))


def NumSets(set_bytes):
    return max(1, -(-ROTATION_BYTES // set_bytes))


def Attention(sizes):
    """Scaled dot product attention of the same heads, a call."""
    batch, heads, kv_heads = sizes['sequences'], sizes['q_heads'], sizes['kv_heads']
    dim, new, keys = sizes['head_dim'], sizes['new_tokens'], sizes['keys']
    sets = [(Random(batch, kv_heads, keys, dim), Random(batch, kv_heads, keys, dim))
            for _ in range(NumSets(4 * batch * kv_heads * keys * dim))]
    query = Random(batch, heads, new, dim)

    def Call(i):
        key, value = sets[i % len(sets)]
        F.scaled_dot_product_attention(query, key, value, is_causal=new > 1, scale=1.0, enable_gqa=True)

    return Call


def Product(sizes):
    """One product with all the matrices of the op, without its norm and activation."""
    m, n, k = sizes['m'], sizes['n'], sizes['k']
    weights = [Random(n, k) for _ in range(NumSets(2 * n * k))]
    x = Random(m, k)
    return lambda i: F.linear(x, weights[i % len(weights)])


def RunPeers(path, timers):
    """Appends a line for each case that has one of these comparators: {name: times of its sizes}."""
    with open(path) as file:
        cases = [line for line in map(json.loads, file) if line['kind'] == 'kernel']
    square = Random(8192, 8192)
    for _ in range(300):  # Half a second, in which an idle device raises its clocks.
        square @ square
    for case in cases:
        for peer in peers.PeersOf(case):
            if peer not in timers:
                continue
            try:
                torch.cuda.empty_cache()
                result = peers.ResultOf(case, peer, timers[peer](case['sizes']))
            except Exception as error:  # No kernel for this shape, or no memory: the next may do.
                result = peers.ResultOf(case, peer, None, why=peers.FirstLine(error))
            print(json.dumps(result), flush=True)
            with open(path, 'a') as file:
                file.write(json.dumps(result) + '\n')


def main():
    print(f'PyTorch {torch.__version__}, CUDA {torch.version.cuda}')
    RunPeers(sys.argv[1], {peers.SDPA: lambda sizes: TimeUs(Attention(sizes)),
                           peers.LINEAR: lambda sizes: TimeUs(Product(sizes))})


if __name__ == '__main__':
    main()
