"""Which comparators a case of kernel_bench has: names that results.jsonl and the table use."""

SDPA = 'torch SDPA'
LINEAR = 'torch linear'
TRITON = 'Triton'
# Products: of a decode step, and one of a prompt. Every size would cost a minute.
PRODUCT_TOKENS = (1, 8, 32, 512)


def PeersOf(case):
    """For a line of kind "kernel"."""
    if case['op'] == 'decode_attention':
        return [SDPA, TRITON]
    if case['op'] == 'prefill_attention':
        return [SDPA]
    if 'm' in case.get('sizes', {}) and case['tokens'] in PRODUCT_TOKENS:
        return [LINEAR]
    return []


def ResultOf(case, peer, us, why=''):
    """A line of kind "peer": the sorted times of a call, or why there is none."""
    result = {'kind': 'peer', 'peer': peer, 'op': case['op'], 'shape': case['shape'],
              'tokens': case['tokens']}
    if why:
        return dict(result, why=why)
    return dict(result, median_us=us[len(us) // 2], least_us=us[0], most_us=us[-1])


def FirstLine(error):
    """What an exception says, in short: compilers' messages are long."""
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0] if lines else ""}'[:200].replace('|', '/')
