#!/usr/bin/env python3
"""Checks who may include whom (ARCHITECTURE.md): includes go downwards only.

Each rule names a folder, the project folders it may include from, and nothing else is allowed. The
most specific rule that a file falls under holds.
"""

import pathlib
import re
import subprocess
import sys

# Folder → prefixes it may include. Generated headers count as what they are generated from.
RULES = {
    'base/': ['base/'],
    'text/': ['text/', 'base/'],
    'proto/': ['proto/', 'base/', 'facet/', 'google/'],
    'router/': ['router/', 'text/', 'proto/', 'base/', 'facet/', 'google/', 'metrics_registry.h',
                'status_page_html.h'],
    'worker/main.cc': ['worker/', 'kernels/', 'proto/', 'base/', 'facet/'],
    'worker/worker_place': ['worker/worker_place.h', 'worker/comm/', 'base/', 'facet/'],
    'worker/end_signals': ['base/'],
    'worker/service/': ['worker/service/', 'worker/engine/', 'proto/', 'base/', 'facet/worker/',
                        'facet/v1/usage',
                        'metrics_registry.h'],
    'worker/engine/': ['worker/engine/', 'worker/executor/executor.h', 'worker/model/step_batch.h',
                       'worker/model/model_work.h', 'worker/model/step_row.h', 'worker/kv/', 'worker/comm/',
                       'worker/sampling/sampling_params.h', 'base/', 'proto/block_hash.h'],
    'worker/executor/': ['worker/executor/', 'worker/model/', 'worker/sampling/', 'worker/kv/',
                         'worker/comm/', 'kernels/', 'base/'],
    'worker/model/': ['worker/model/', 'worker/sampling/', 'worker/kv/', 'worker/comm/', 'kernels/',
                      'base/'],
    'worker/sampling/': ['worker/sampling/', 'worker/model/step_batch.h', 'worker/kv/', 'kernels/',
                         'base/'],
    'worker/kv/': ['worker/kv/', 'kernels/', 'base/', 'proto/block_hash.h'],
    'worker/comm/': ['worker/comm/', 'kernels/', 'base/'],
    'kernels/': ['kernels/', 'base/check.h', 'base/math.h'],
    'cli/': ['cli/', 'text/', 'proto/', 'base/', 'worker/', 'kernels/', 'facet/', 'google/'],
}
FOLDERS = {'base', 'text', 'proto', 'router', 'worker', 'kernels', 'cli', 'tests', 'facet', 'google'}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def RuleOf(path):
    """The most specific rule's allowed prefixes, or None for files without a rule (tests/)."""
    matches = [folder for folder in RULES if path.startswith(folder)]
    return RULES[max(matches, key=len)] if matches else None


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    tracked = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=root, check=True,
                             capture_output=True, text=True).stdout.split('\n')
    broken = []
    for path in tracked:
        allowed = RuleOf(path)
        if allowed is None or not path.endswith(('.h', '.cc', '.cu', '.cuh', '.inl')):
            continue
        for number, line in enumerate((root / path).read_text().split('\n'), 1):
            match = INCLUDE.match(line)
            if match is None:
                continue
            header = match.group(1)
            if header.split('/')[0] not in FOLDERS and '/' in header:
                continue  # A package's own header, such as absl/status/status.h.
            if not header.startswith(tuple(allowed)):
                broken.append(f'{path}:{number}: {header} is not among {", ".join(allowed)}')
    print('\n'.join(broken) if broken else f'{len(tracked)} files keep the include rule')
    return 1 if broken else 0


if __name__ == '__main__':
    sys.exit(main())
