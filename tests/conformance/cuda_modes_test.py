#!/usr/bin/env python3
"""The CUDA ops give equal bits whatever order the emulator runs threads and copies in.

    cuda_modes_test.py PROGRAM

PROGRAM is cuda_conformance_test. Every op's cases of a few seeds run in each mode: all must be like
the reference, and what they write must be the same bytes in all modes. Budget: 60 s on 2 cores.
"""

import concurrent.futures
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

ORDERS = ("order=forward", "order=reverse", "order=random,seed=1", "order=random,seed=2",
          "order=random,seed=3")
COPIES = ("copies=lazy", "copies=eager", "copies=mixed")
SEEDS = (1, 2, 3, 4)
SAMPLING = "*/CudaSampleTest.ARowAlone/*_equal"


def digests(program, mode):
    """{case: digest of what its op wrote} of all cases in one mode; None if one fails."""
    cases = ":".join([f"*_{seed}" for seed in SEEDS] + [SAMPLING])
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        done = subprocess.run(
            [program, f"--gtest_filter={cases}", "--gtest_brief=1",
             f"--gtest_output=xml:{report.name}"],
            env=dict(os.environ, FACET_EMULATOR=mode), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            print(f"{mode}: status {done.returncode}\n{done.stdout}")
            return None
        cases = xml.etree.ElementTree.parse(report.name).iter("testcase")
        return {case.get("name"): found.get("value") for case in cases
                for found in case.iter("property") if found.get("name") == "digest"}


def main():
    modes = [f"{order},{copies}" for order in ORDERS for copies in COPIES]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(modes, pool.map(lambda mode: digests(sys.argv[1], mode), modes)))
    if None in results.values():
        return 1
    want = results[modes[0]]
    differences = [f"{case} writes other bits under {mode} than under {modes[0]}"
                   for mode in modes for case in want if results[mode][case] != want[case]]
    print("\n".join(differences + [f"{len(want)} cases in {len(modes)} modes"]))
    return 1 if differences or not want else 0


if __name__ == "__main__":
    sys.exit(main())
