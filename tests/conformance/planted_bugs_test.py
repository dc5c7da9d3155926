#!/usr/bin/env python3
"""Every bug of planted_bugs.py is caught: by the emulator or by a comparison with the reference.

    planted_bugs_test.py PROGRAM

PROGRAM is the conformance cases, built from the sources with the bugs. Each case must pass without
a bug, and fail with it. Prints what caught which. Budget: 60 s on 2 cores.
"""

import concurrent.futures
import os
import re
import subprocess
import sys

from planted_bugs import BUGS

EMULATOR_REFUSED = 86  # kErrorStatus of the emulator.
CASE_FAILED = 1  # GoogleTest's.


def run(program, case, modes, number):
    """Exit status and output of the case with this bug in force; 0 is none."""
    environment = dict(os.environ, FACET_EMULATOR=modes, FACET_PLANTED_BUG=str(number))
    done = subprocess.run([program, f"--gtest_filter={case}", "--gtest_brief=1"], env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=50)
    return done.returncode, done.stdout


def passes(program, case, modes):
    status, output = run(program, case, modes, 0)
    ran = re.search(r"\[=+\] ([1-9]\d*) tests? from", output)
    if status == 0 and ran:
        return True
    print(f"without a bug, {case} under {modes} fails or names no test:\n{output}")
    return False


def caught_by(program, number, bug):
    """What noticed the bug; None if nothing did."""
    status, output = run(program, bug.case, bug.modes, number)
    if status == EMULATOR_REFUSED:
        return "emulator: " + re.search(r"cuda emulator: \S*/(\S+: .*?)(?: \[|$)", output, re.M)[1]
    if status == CASE_FAILED and "[  FAILED  ]" in output:
        wrong = re.search(r"(\S+\[\d+\]) is (\S+), reference (\S+)", output)
        failed = re.search(r"\[  FAILED  \] ([^\s,]+)", output)[1]
        return f"{failed}, {wrong[0]}" if wrong else failed
    print(f"{bug.name}: status {status}\n{output}")
    return None


def main():
    program = sys.argv[1]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        cases = sorted({(bug.case, bug.modes) for bug in BUGS})
        all_pass = list(pool.map(lambda case: passes(program, *case), cases))
        catches = list(pool.map(lambda bug: caught_by(program, *bug), enumerate(BUGS, start=1)))
    for number, (bug, catch) in enumerate(zip(BUGS, catches), start=1):
        print(f"{number:2} {bug.name:62} {catch or 'NOT CAUGHT'}")
    missed = catches.count(None)
    print(f"{len(BUGS) - missed} of {len(BUGS)} bugs are caught")
    return 0 if all(all_pass) and missed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
