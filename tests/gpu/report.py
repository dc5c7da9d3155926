#!/usr/bin/env python3
"""Prints results.jsonl of tests/gpu/run.sh as markdown, ready for tests/bench/RESULTS.md.

report.py RESULTS_JSONL. Every figure stands beside its ceiling of the same run and, where the project asks
for something, the bar and a verdict: good, must (the least that is asked) or below.
"""

import json
import statistics
import sys

# Output tokens per second of the whole run, prompts 513, outputs 511, on one H200: what must be reached,
# what is good, and what SGLang publishes (docs, google/gemma4-benchmarks).
SERVING = {('synth:e4b', 1): (250, 340, 172), ('synth:e4b', 100): (9000, 14000, 7003),
           ('synth:26b', 1): (280, 410, 169), ('synth:26b', 100): (5000, 7400, 3676)}
# Shares of copy bandwidth that decode steps reach: at batch 1, and from 32 to 128.
STEP_ONE = (0.60, 0.70)
STEP_MANY = (0.75, 0.82)
# How many times faster than the comparator decode attention has to be.
SDPA_SPEEDUP = 1.2


def Verdict(value, must, good):
    return 'good' if value >= good else 'must' if value >= must else 'below'


def Table(header, rows):
    """A markdown table, or nothing if it has no rows."""
    if not rows:
        return
    print('| ' + ' | '.join(header) + ' |')
    print('|' + '---|' * len(header))
    for row in rows:
        print('| ' + ' | '.join(row) + ' |')
    print()


def Of(lines, kind):
    return [line for line in lines if line['kind'] == kind]


def PrintKernels(lines):
    peers = {(p['op'], p['shape'], p['tokens']): p for p in Of(lines, 'peer')}
    rows = []
    for case in Of(lines, 'kernel'):
        peer = peers.get((case['op'], case['shape'], case['tokens']))
        bar = f'{case["must"]:.0%} / {case["good"]:.0%}' if case['must'] else ''
        speedup = ''
        if peer:
            ratio = peer['median_us'] / case['median_us']
            speedup = f'{ratio:.2f} × {peer["peer"]}'
            if case['op'] == 'decode_attention' and case['must']:
                speedup += f' ({"good" if ratio >= SDPA_SPEEDUP else "below"})'
        rows.append([case['op'], case['shape'], str(case['tokens']),
                     f'{case["median_us"]:.1f} ({case["least_us"]:.1f} to {case["most_us"]:.1f})',
                     f'{case["floor_us"]:.1f}', f'{case["share"]:.0%} of {case["ceiling"]}', bar,
                     case['verdict'], speedup])
    Table(['op', 'shape', 'tokens', 'µs, median (spread)', 'floor µs', 'share', 'must / good', 'verdict',
           'against'], rows)


def PrintEngine(lines):
    rows = []
    for report in Of(lines, 'engine'):
        for batch in dict.fromkeys(run['batch'] for run in report['runs']):
            runs = [run for run in report['runs'] if run['batch'] == batch]
            output = statistics.median(run['output_tokens_per_second'] for run in runs)
            share = statistics.median(run['decode_read_share'] for run in runs)
            must, good, published = SERVING.get((report['model'], batch), (0, 0, 0))
            step = STEP_ONE if batch == 1 else STEP_MANY if 32 <= batch <= 128 else None
            if not report['model'].startswith('synth:'):
                step = None
            rows.append([
                report['model'], report['numerics_id'], str(batch), f'{output:.0f}',
                f'{must} / {good}: {Verdict(output, must, good)}' if must else '',
                f'{published}' if published else '',
                f'{statistics.median(run["tpot_ms"] for run in runs):.2f}', f'{share:.0%} of copy',
                f'{step[0]:.0%} / {step[1]:.0%}: {Verdict(share, *step)}' if step else '',
                f'{report["load_seconds"]:.1f}'])
    Table(['model', 'numerics', 'requests at once', 'output tok/s', 'must / good', 'SGLang, H200, published',
           'TPOT ms', 'decode step', 'must / good', 'loaded in s'], rows)


def main():
    with open(sys.argv[1]) as file:
        lines = [json.loads(line) for line in file]
    device = Of(lines, 'device')[0]
    print(f'## {device["name"]}, {device["date"]}\n')
    print(f'`tests/gpu/run.sh`, {device["mode"]} run, commit {device["commit"]}, driver '
          f'{device["driver"] or "unknown"}.')
    if device['mode'] == 'emulated':
        print('**Emulated: no figure below means anything.**')
    print()
    # Every program of the run measures them anew: the medians, and how far they lie apart.
    ceilings = {}
    for line in Of(lines, 'ceiling'):
        ceilings.setdefault((line['name'], line['unit']), []).append(line['value'])
    Table(['ceiling', 'median', 'spread'],
          [[name, f'{statistics.median(values):.0f} {unit}', f'{min(values):.0f} to {max(values):.0f}']
           for (name, unit), values in ceilings.items()])
    Table(['part', 'outcome', 's', ''],
          [[part['name'], part['status'], str(part['seconds']), part['why']] for part in Of(lines, 'part')])
    PrintKernels(lines)
    PrintEngine(lines)
    Table(['clocks', 'SM MHz', 'memory MHz', '°C', 'W'],
          [[c['when'], c['sm_mhz'], c['memory_mhz'], c['celsius'], c['watts']]
           for c in Of(lines, 'clocks')])
    verdicts = [case['verdict'] for case in Of(lines, 'kernel')]
    print(f'Kernels with a bar: {verdicts.count("good")} good, {verdicts.count("must")} must, '
          f'{verdicts.count("below")} below; {verdicts.count("FAILED")} failed.')


if __name__ == '__main__':
    main()
