#!/usr/bin/env python3
"""Prints results.jsonl of tests/gpu/run.sh as markdown, ready for tests/bench/RESULTS.md.

report.py RESULTS_JSONL. Every figure stands beside its ceiling of the same run and, where the project asks
for something, the bar and a verdict: good, must (the least that is asked) or below.
"""

import json
import statistics
import sys

import peers

# Output tokens per second of the whole run, prompts 513, outputs 511, on one H200: what must be reached,
# what is good, and what SGLang publishes (docs, google/gemma4-benchmarks).
SERVING = {('synth:e4b', 1): (250, 340, 172), ('synth:e4b', 100): (9000, 14000, 7003),
           ('synth:26b', 1): (280, 410, 169), ('synth:26b', 100): (5000, 7400, 3676)}
# Shares of copy bandwidth that decode steps reach: at batch 1, and from 32 to 128.
STEP_ONE = (0.60, 0.70)
STEP_MANY = (0.75, 0.82)
# How many times faster than a comparator decode attention has to be where it has a bar, and at which head
# sizes.
SPEEDUPS = {peers.SDPA: (1.2, (256, 512)), peers.TRITON: (1.5, (512,))}
NOT_MEASURED = 'not measured'


def Verdict(value, must, good):
    return 'good' if value >= good else 'must' if value >= must else 'below'


def Count(verdicts, names):
    return ', '.join(f'{verdicts.count(name)} {name}' for name in names)


def Median(runs, field):
    """Of what was measured; None if nothing was."""
    values = [run[field] for run in runs if run[field]]
    return statistics.median(values) if values else None


def Figure(value, form):
    return NOT_MEASURED if value is None else form.format(value)


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


def Against(case, result, peer, verdicts):
    """What a case says of one comparator; a verdict goes to verdicts if the comparator has a bar there."""
    why = result.get('why') if result else None
    ratio = result['median_us'] / case['median_us'] if result and not why else None
    text = f'{ratio:.2f} × {peer}' if ratio else f'{peer}: {NOT_MEASURED}' + (f', {why}' if why else '')
    bar, head_dims = SPEEDUPS.get(peer, (0, ()))
    if case['op'] != 'decode_attention' or not case['must'] or case['sizes']['head_dim'] not in head_dims:
        return text
    verdict = NOT_MEASURED if ratio is None else 'met' if ratio >= bar else 'missed'
    verdicts.setdefault(peer, []).append(verdict)
    return f'{text} (bar {bar} ×' + (f': {verdict})' if ratio else ')')


def PrintKernels(lines):
    """Returns the verdicts of the kernels, and by comparator those on it."""
    results = {(p['peer'], p['op'], p['shape'], p['tokens']): p for p in Of(lines, 'peer')}
    verdicts, speedups, rows = [], {}, []
    for case in Of(lines, 'kernel'):
        bar = f'{case["must"]:.0%} / {case["good"]:.0%}' if case['must'] else ''
        no_ceiling = case['ceiling'] == 'none'
        against = [Against(case, results.get((peer, case['op'], case['shape'], case['tokens'])), peer,
                           speedups) for peer in peers.PeersOf(case)]
        verdicts.append(NOT_MEASURED if case['must'] and case['verdict'] == '-' else case['verdict'])
        rows.append([case['op'], case['shape'], str(case['tokens']),
                     f'{case["median_us"]:.1f} ({case["least_us"]:.1f} to {case["most_us"]:.1f})',
                     NOT_MEASURED if no_ceiling else f'{case["floor_us"]:.1f}',
                     NOT_MEASURED if no_ceiling else f'{case["share"]:.0%} of {case["ceiling"]}', bar,
                     case['verdict'], '; '.join(against)])
    Table(['op', 'shape', 'tokens', 'µs, median (spread)', 'floor µs', 'share', 'must / good', 'verdict',
           'against'], rows)
    return verdicts, speedups


def IsFast(report):
    return '/fast-' in report['numerics_id']


def PrintEngine(lines):
    """Returns the verdicts on whole runs and on decode steps, of the exact kernels."""
    rows, verdicts = [], []
    bars_left = dict(SERVING)

    def Judge(value, must, good):
        verdicts.append(NOT_MEASURED if value is None else Verdict(value, must, good))
        return verdicts[-1]

    for report in Of(lines, 'engine'):
        for batch in dict.fromkeys(run['batch'] for run in report['runs']):
            runs = [run for run in report['runs'] if run['batch'] == batch]
            output = Median(runs, 'output_tokens_per_second')
            share = Median(runs, 'decode_read_share')
            case = (report['model'], batch)
            must, good, published = SERVING.get(case, (0, 0, 0))
            step = STEP_ONE if batch == 1 else STEP_MANY if 32 <= batch <= 128 else None
            if IsFast(report) or not report['model'].startswith('synth:'):
                must, step = 0, None
            if must:
                bars_left.pop(case, None)
            rows.append([
                report['model'], report['numerics_id'], str(batch), Figure(output, '{:.0f}'),
                f'{must} / {good}: {Judge(output, must, good)}' if must else '',
                f'{published}' if published else '',
                Figure(Median(runs, 'prefill_tokens_per_second'), '{:.0f}'),
                Figure(Median(runs, 'tpot_ms'), '{:.2f}'), Figure(share, '{:.0%} of copy'),
                f'{step[0]:.0%} / {step[1]:.0%}: {Judge(share, *step)}' if step else '',
                f'{report["load_seconds"]:.1f}'])
    for (model, batch), (must, good, published) in bars_left.items():
        rows.append([model, '', str(batch), NOT_MEASURED, f'{must} / {good}: {Judge(None, must, good)}',
                     f'{published}', NOT_MEASURED, NOT_MEASURED, NOT_MEASURED, '', ''])
    Table(['model', 'numerics', 'requests at once', 'output tok/s', 'must / good', 'SGLang, H200, published',
           'prefill tok/s', 'TPOT ms', 'decode step', 'must / good', 'loaded in s'], rows)
    return verdicts


def PrintLossOfExact(lines):
    """What equal bits cost: our own kernels beside the fast table, on the same requests."""
    fields = (('output_tokens_per_second', 'output'), ('prefill_tokens_per_second', 'prefill'),
              ('decode_tokens_per_second', 'decode'))
    tables = {False: {}, True: {}}
    for report in Of(lines, 'engine'):
        for run in report['runs']:
            tables[IsFast(report)].setdefault((report['model'], run['batch']), []).append(run)
    rows = []
    for model in dict.fromkeys(model for model, _ in SERVING):
        case = (model, 32)
        row = [model, str(case[1])]
        for field, _ in fields:
            exact, fast = (Median(tables[is_fast].get(case, []), field) for is_fast in (False, True))
            row.append(f'{1 - exact / fast:+.1%} ({exact:.0f} for {fast:.0f})' if exact and fast
                       else NOT_MEASURED)
        rows.append(row)
    Table(['exact loses against fast', 'requests at once', *(f'of {name} tok/s' for _, name in fields)], rows)


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
    kernels, speedups = PrintKernels(lines)
    engine = PrintEngine(lines)
    PrintLossOfExact(lines)
    Table(['clocks', 'SM MHz', 'memory MHz', '°C', 'W'],
          [[c['when'], c['sm_mhz'], c['memory_mhz'], c['celsius'], c['watts']]
           for c in Of(lines, 'clocks')])
    names = ['good', 'must', 'below', NOT_MEASURED]
    against = '; '.join(f'{bar} × {peer}: {Count(speedups.get(peer, []), ["met", "missed", NOT_MEASURED])}'
                        for peer, (bar, _) in SPEEDUPS.items())
    print(f'Kernels with a bar: {Count(kernels, names)}; {kernels.count("FAILED")} failed. Decode attention, '
          f'{against}. Engine: {Count(engine, names)}.')


if __name__ == '__main__':
    main()
