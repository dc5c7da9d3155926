#!/usr/bin/env bash
# Long benchmarks, one after the other, on a build directory: run.sh [BUILD_DIR]. A few minutes and some
# 8 GB of memory on 2 cores; a quiet machine gives figures worth recording.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${1:-build/release}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

echo "== machine: $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg), $(sed -n 's/^model name.*: //p;T;q' /proc/cpuinfo)"
echo "== tokenizer"
xz -dkc tests/golden/text/gemma4_tokenizer.json.xz >"$scratch/tokenizer.json"
"$build/bench/tokenizer_bench" "$scratch/tokenizer.json"
for batch in 1 8; do
  echo "== engine, batch $batch: eight layers of the E4B shape"
  "$build/bin/facet" bench engine --model synth:e4b:8 --batch "$batch" --prompt 64 --output 16 --repetitions 5
done
echo "Record medians with spread, machine and date in tests/bench/RESULTS.md."
