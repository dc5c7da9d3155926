#!/usr/bin/env python3
"""Writes RESOURCES.md: what the compiled kernels take, read from the objects of the cuda preset.

    cmake --preset cuda && ninja -C build/cuda facet_kernels_cuda
    kernels/cuda/resources.py

Exits with 1 if a kernel that runs in a step spills, a product has no tensor instruction, or the
compiler has put its products of warpgroups one behind the other. Needs
cuobjdump and nvdisasm of the CUDA toolkit, or of the PyPI packages nvidia-cuda-cuobjdump and
nvidia-cuda-nvdisasm, in PATH; and c++filt.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
OBJECTS = ROOT / "build/cuda/kernels/CMakeFiles/facet_kernels_cuda.dir/cuda"
REPORT = ROOT / "kernels/cuda/RESOURCES.md"

RUNS_AT_LOADING = ("PackKernel",)
COLUMNS = ("registers", "stack", "stores", "shared", "tensor")
PRODUCTS = ("Attend<", "AttendByWarpgroups<", "StreamKernel<", "TiledKernel<")
ONLY_ON = {"AttendByWarpgroups<": "sm_90a"}  # Elsewhere it is empty.

HEADER = """# What the kernels take

Written by `kernels/cuda/resources.py` from the objects of the cuda preset ({compiler}); not
edited. It fails if a kernel of a step spills, a product has no tensor instruction, or products of
warpgroups wait for each other. One line per instance; two numbers are those of the architectures in the heading, one is both's. Registers are a
thread's; stack is bytes of spills and local arrays, with the number of instructions that store to
it; shared is bytes of static shared memory (from sm_90 on with 1024 that the system keeps), dynamic
memory is asked for at the launch; tensor is the number of mma instructions in the code.

* `Attend<head_dim, column tiles, warps, stages, blocks an SM>`: 1 column tile is decode, more are
  prefill; `FoldSplits` the same.
* `AttendByWarpgroups<head_dim>`: from sm_90a alone, elsewhere it is left empty. Its warpgroups change
  their registers to 40 (copies) and 232 (products) of those that the table says.
* `StreamKernel<Work, row tiles, token tiles>`, up to 64 tokens; `TiledKernel<Work, tiles a warp>`,
  more.

"""


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def readable(symbols):
    """Short names of mangled symbols, without namespaces and parameters."""
    names = subprocess.run(["c++filt"], input="\n".join(symbols), check=True, capture_output=True,
                           text=True).stdout.splitlines()
    short = {}
    for symbol, name in zip(symbols, names):
        name = re.sub(r"\(anonymous namespace\)::|facet::kernels::|attention::|sampling::|^void ", "", name)
        name = name.replace("(int)", "").split("(")[0]
        short[symbol] = re.sub(r"(?:Attend|Warpgroup)Shape<(.*)> >", r"\1>", name).replace("> >", ">>")
    return short


def natural_order(name):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def kernels_of(path):
    """{symbol: {architecture: {column: number}}} of one object."""
    kernels = {}
    architecture = symbol = None
    for line in output_of("cuobjdump", "--dump-resource-usage", path).splitlines():
        if match := re.match(r"arch = (\w+)", line):
            architecture = match[1]
        elif match := re.match(r" Function (\S+):", line):
            symbol = match[1]
        elif match := re.match(r"  REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            kernels.setdefault(symbol, {})[architecture] = {
                "registers": registers, "stack": stack + local, "shared": shared, "stores": 0,
                "tensor": 0, "waits": 0}
    for line in output_of("cuobjdump", "--dump-sass", path).splitlines():
        if match := re.match(r"arch = (\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s+Function : (\S+)", line):
            usage = kernels[match[1]][architecture]
        elif match := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?\w+ )?(\w+)", line):
            usage["stores"] += match[1] == "STL"
            usage["tensor"] += match[1] in ("HMMA", "HGMMA", "IMMA", "IGMMA")
            usage["waits"] += "WARPGROUP.DEPBAR" in line
    return kernels


def main():
    objects = sorted(OBJECTS.glob("*.cu.o"))
    if not objects:
        sys.exit(f"no objects in {OBJECTS.relative_to(ROOT)}: build facet_kernels_cuda first")
    release = re.search(r"release [\d.]+, V([\d.]+)", output_of("nvcc", "--version"))
    report = HEADER.format(compiler=f"nvcc {release[1]}")
    failures = []
    for path in objects:
        kernels = kernels_of(path)
        names = readable(list(kernels))
        architectures = sorted({a for usage in kernels.values() for a in usage})
        report += f"## {path.name.removesuffix('.o')} ({' / '.join(architectures)})\n\n"
        report += "| kernel | registers | stack | stores to it | shared | tensor |\n"
        report += "|---|" + "---:|" * len(COLUMNS) + "\n"
        for symbol in sorted(kernels, key=lambda symbol: natural_order(names[symbol])):
            name = names[symbol]
            usages = [kernels[symbol][architecture] for architecture in architectures]
            cells = [" / ".join(dict.fromkeys(str(usage[column]) for usage in usages))
                     for column in COLUMNS]
            report += f"| `{name}` | {' | '.join(cells)} |\n"
            for architecture, usage in zip(architectures, usages):
                if usage["stack"] + usage["stores"] > 0 and not name.startswith(RUNS_AT_LOADING):
                    failures.append(f"{name} spills on {architecture}")
                if 2 * usage["waits"] > usage["tensor"]:
                    failures.append(f"{name} waits for each product of warpgroups on {architecture}")
                is_empty = any(name.startswith(kernel) and architecture != only
                               for kernel, only in ONLY_ON.items())
                if name.startswith(PRODUCTS) and usage["tensor"] == 0 and not is_empty:
                    failures.append(f"{name} has no tensor instruction on {architecture}")
        report += "\n"
    REPORT.write_text(report.rstrip("\n") + "\n")
    for failure in failures:
        print(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
