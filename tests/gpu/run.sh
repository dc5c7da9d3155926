#!/usr/bin/env bash
# Everything that a GPU can tell about Facet, in one run of under nine minutes; see README.md here.
#
#   tests/gpu/run.sh              conformance, parity, sanitizers, benches, comparators
#   tests/gpu/run.sh --quick      fewer repetitions, no sanitizers
#   tests/gpu/run.sh --emulated   tries this script on a machine without a GPU: programs of build/dev on
#                                 the emulator or the CPU, small loads; no figure means anything
#
# Needs the driver and build/gpu/carry/programs.tar.gz (`make gpu`). Python with PyTorch, compute-sanitizer
# and nvidia-smi are used where they are. Writes to $OUT (default build/gpu/out): results.jsonl, report.md
# and logs: at most 8 files. Status: 0; 1 if a part failed; 2 for a wrong call; 3 without a usable device.
set -uo pipefail
cd "$(dirname "$0")/../.."

mode=full
case "${1:-}" in
  "") ;;
  --quick | --emulated) mode=${1#--} ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
readonly mode
readonly budget_s=520  # Of nine minutes; a part at its limit takes some seconds more.
readonly out=${OUT:-build/gpu/out}
readonly results=$out/results.jsonl
readonly was_skipped=75  # What part returns if the budget is used up.
PATH=$PATH:/usr/local/cuda/bin
if [[ $mode == emulated ]]; then
  conformance=build/dev/tests/cuda_conformance_test attention=build/dev/tests/cuda_attention_test
  parity=build/dev/tests/cuda_golden_test kernel_bench=build/dev/bench/kernel_bench facet=build/dev/bin/facet
  nccl=build/dev/tests/fake_nccl_communicator_test
else
  programs=build/gpu/programs
  if [[ -f build/gpu/carry/programs.tar.gz ]]; then
    mkdir -p "$programs" && tar -xzf build/gpu/carry/programs.tar.gz -C "$programs"
  fi
  conformance=$programs/cuda_conformance_test attention=$programs/cuda_attention_test
  parity=$programs/cuda_golden_test kernel_bench=$programs/kernel_bench facet=$programs/facet
  nccl=$programs/nccl_communicator_device_test
fi
mkdir -p "$out"
rm -f "$out"/*.log "$results" "$out/report.md"

passed=0 failed=0 skipped=0
failures=()

# record NAME STATUS SECONDS WHY: one part's outcome, in the counts and in results.jsonl.
record() {
  case $2 in
    passed) passed=$((passed + 1)) ;;
    failed) failed=$((failed + 1)) failures+=("$1: $4") ;;
    skipped) skipped=$((skipped + 1)) ;;
  esac
  echo "-- $1: $2${4:+ ($4)}, $3 s, at $SECONDS s"
  printf '{"kind": "part", "name": "%s", "status": "%s", "seconds": %d, "why": "%s"}\n' \
    "$1" "$2" "$3" "${4//\"/}" >>"$results"
}

# part NAME SECONDS LOG COMMAND...: runs it with that limit, or what is left of the budget; its output goes
# to the log and, if it fails, its end to the screen. Other parts go on whatever happens. Returns the
# command's status.
part() {
  local name=$1 limit=$2 log=$out/$3 start=$SECONDS left=$((budget_s - SECONDS)) status
  shift 3
  echo "== $name"
  if ((left < 10)); then
    record "$name" skipped 0 "the budget of $budget_s s is used up"
    return $was_skipped
  fi
  echo "== $*" >>"$log"
  timeout -k 5 "$((limit < left ? limit : left))" "$@" >>"$log" 2>&1
  status=$?
  if ((status == 0)); then
    record "$name" passed $((SECONDS - start)) ""
  elif ((status == 124 || status == 137)); then
    tail -5 "$log"
    record "$name" failed $((SECONDS - start)) "over its time limit"
  else
    tail -25 "$log"
    record "$name" failed $((SECONDS - start)) "status $status"
  fi
  return $status
}

# Clocks, temperature and power as they are now; benches are read beside them.
clocks() {
  command -v nvidia-smi >/dev/null || return 0
  timeout 10 nvidia-smi --query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw --format=csv,noheader,nounits 2>/dev/null |
    head -1 | awk -F', *' -v when="$1" \
    '{printf "{\"kind\": \"clocks\", \"when\": \"%s\", \"sm_mhz\": \"%s\", \"memory_mhz\": \"%s\", \"celsius\": \"%s\", \"watts\": \"%s\"}\n", when, $1, $2, $3, $4}' \
    >>"$results"
}

# The output of the last command in a log.
last_of() {
  awk '/^== / {text = ""} {text = text $0 "\n"} END {printf "%s", text}' "$1"
}

# From a GoogleTest program's output: how many cases of each test passed.
by_test() {
  awk '/^\[ +(OK|FAILED|SKIPPED) +\]/ && /\(/ {
         verdict = $0 ~ /^\[ +OK/ ? "OK" : $2
         sub(/^\[ +[A-Z]+ +\] /, "")
         sub(/ \(.*/, "")
         parts = split($1, words, "/")  # Instance/Suite.Test/case, or Suite.Test
         name = parts > 1 ? words[2] : words[1]
         names[name] = 1
         count[name, verdict]++
       }
       END {
         for (name in names)
           printf "   %-64s %4d passed %3d failed %3d skipped\n", name, count[name, "OK"],
                  count[name, "FAILED"], count[name, "SKIPPED"]
       }' | sort
}

# tests NAME SECONDS LOG PROGRAM [ARGUMENTS]: a GoogleTest program; no case at all is a failure too.
tests() {
  local log=$out/$3
  part "$@"
  if (($? == was_skipped)); then return; fi
  last_of "$log" | by_test
  # grep -q would end the pipe early, which pipefail takes for a failure.
  if [[ $(last_of "$log" | grep -c '^\[       OK \]') == 0 ]]; then record "$1 has cases" failed 0 "no test ran"; fi
}

# --- a: device -------------------------------------------------------------------------------------------

for program in "$conformance" "$attention" "$parity" "$kernel_bench" "$nccl" "$facet"; do
  if [[ ! -x $program ]]; then
    echo "run.sh: $program is missing: 'make gpu' builds build/gpu/carry/programs.tar.gz, 'make check' what --emulated needs"
    exit 2
  fi
done
# The libraries of PyTorch's wheels, where the toolkit's are not in the loader's path.
for library in /usr/local/cuda/lib64 $(timeout 20 python3 -c '
import glob, importlib.util
spec = importlib.util.find_spec("nvidia")
for path in (spec.submodule_search_locations if spec else []):
    for name in "libcublasLt.so.*", "libnccl.so.2":
        print(*{f.rsplit("/", 1)[0] for f in glob.glob(path + "/*/lib/" + name)})' 2>/dev/null); do
  if [[ -d $library ]]; then LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$library; fi
done
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}
if command -v nvidia-smi >/dev/null; then
  timeout 20 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem --format=csv | tee "$out/device.log"
else
  echo "nvidia-smi is not here"
fi
check=()
if [[ $mode == emulated ]]; then check=(--check); fi
timeout -k 5 60 "$kernel_bench" --only ceilings "${check[@]}" 2>&1 | tee -a "$out/device.log"
status=${PIPESTATUS[0]}
if ((status == 3)); then
  echo "run.sh: no GPU that these programs can use; nothing was measured"
  exit 3
fi
has_cublas_lt=1
if grep -q '^ceiling  product.*skipped' "$out/device.log"; then has_cublas_lt=0; fi
device=$(sed -n 's/^device   \([^,]*\).*/\1/p' "$out/device.log" | head -1)
printf '{"kind": "device", "name": "%s", "mode": "%s", "date": "%s", "commit": "%s", "driver": "%s"}\n' "$device" \
  "$mode" "$(date -u +%F)" "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" \
  "$(timeout 20 nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -1)" >>"$results"
if ((status != 0)); then record device failed 0 "kernel_bench ended with status $status"; fi

# --- b, c: right or wrong --------------------------------------------------------------------------------

if [[ $mode == emulated ]]; then
  tests conformance 120 conformance.log "$conformance" --gtest_filter='*_1'
  tests "conformance of attention" 120 conformance.log "$attention" --gtest_filter='*window_of_one*:*Seeds*/1'
  tests parity 120 parity.log "$parity" --gtest_filter='*LogitsAreNoFurther*/flat:CudaDemo*'
else
  tests conformance 90 conformance.log "$conformance"
  tests "conformance of attention" 60 conformance.log "$attention"
  tests parity 120 parity.log "$parity"
fi

# Ranks are processes that share the GPU: two, and three for less, as they take turns on it.
if [[ $mode == emulated ]]; then
  tests "NCCL's communicator" 60 nccl.log "$nccl" --gtest_filter='*EveryBlock*/1:*AllGather*/2'
elif ! timeout 20 python3 -c 'import ctypes; ctypes.CDLL("libnccl.so.2")' 2>/dev/null; then
  record "NCCL's communicator" skipped 0 "no libnccl.so.2 that can be opened"
else
  tests "NCCL's communicator" 120 nccl.log "$nccl" \
    --gtest_filter='*/1:*EveryBlock*/2:*AllGather*/2:*Vanishes*/2:-*RanksThatDisagree*'
fi

# --- d: kernels beside their ceilings --------------------------------------------------------------------

for group in decode linear moe prefill sampling; do
  clocks "$group begins"
  bench=("$kernel_bench" --only "$group" --json "$results" "${check[@]}")
  part "kernels: $group" 60 kernels.log "${bench[@]}"
  status=$?
  # Where a capture is what fails, times of single launches still tell something.
  if ((status != 0 && status != was_skipped)); then
    part "kernels: $group, without graphs" 60 kernels.log "${bench[@]}" --no-graphs
  fi
  clocks "$group ends"
done
if [[ $mode == emulated ]]; then
  record "kernels: prefill, fast" skipped 0 "no GPU"
elif ((!has_cublas_lt)); then
  record "kernels: prefill, fast" skipped 0 "no cuBLASLt"
else
  part "kernels: prefill, fast" 60 kernels.log "$kernel_bench" --only prefill --kernels fast --json "$results"
fi
grep -v '^==' "$out/kernels.log"

# --- e: whole engine -------------------------------------------------------------------------------------

# engine NAME SECONDS ARGUMENTS...: facet bench engine, its JSON object as a line of the results.
engine() {
  local name=$1 limit=$2
  shift 2
  clocks "$name begins"
  if part "engine: $name" "$limit" engine.log "$facet" bench engine --json "$@"; then
    grep '^{' "$out/engine.log" | tail -1 | sed 's/^{/{"kind": "engine", /' | tee -a "$results"
  fi
  clocks "$name ends"
}

load=(--device cuda --prompt 513 --output 511 --step-tokens 4096)
e4b=(--model synth:e4b --kv-gib 6) big=(--model synth:26b --kv-gib 24)
case $mode in
  full) repetitions=3 ;;
  *) repetitions=1 ;;
esac

# fast NAME SECONDS ARGUMENTS...: the same with the fast kernel table, what exact is held against.
fast() {
  if [[ $mode == emulated ]]; then
    record "engine: $1, fast" skipped 0 "no GPU"
  elif ((!has_cublas_lt)); then
    record "engine: $1, fast" skipped 0 "no cuBLASLt"
  else
    engine "$1, fast" "$2" "${load[@]}" "${@:3}" --kernels fast --batch 32 --repetitions 1
  fi
}

if [[ $mode == emulated ]]; then
  engine "demo model on the CPU" 60 --device cpu --model deploy/demo/models/facet-demo-e4b --prompt 17 --output 15 --batch 1,4 --repetitions 1
else
  engine "synth:e4b" 100 "${load[@]}" "${e4b[@]}" --batch 1,32,100 --repetitions "$repetitions"
  engine "synth:26b" 130 "${load[@]}" "${big[@]}" --batch 1,32,100 --repetitions "$repetitions"
fi
fast "synth:e4b" 50 "${e4b[@]}"

# --- f: comparators --------------------------------------------------------------------------------------

why=
if ! command -v python3 >/dev/null; then
  why="no python3"
elif ! timeout 60 python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  why="no PyTorch with a GPU"
fi
if [[ -n $why ]]; then
  record "PyTorch's kernels" skipped 0 "$why"
  record "Triton's attention" skipped 0 "$why"
else
  part "PyTorch's kernels" 90 kernels.log python3 tests/gpu/torch_peers.py "$results"
  if ! timeout 60 python3 -c 'import triton' 2>/dev/null; then
    record "Triton's attention" skipped 0 "no Triton"
  else
    part "Triton's attention" 90 kernels.log python3 tests/gpu/triton_peers.py "$results"
  fi
fi
record "FlashInfer's kernels" skipped 0 "not written"

# --- g: compute-sanitizer --------------------------------------------------------------------------------

# One seed of every op, then the two whose blocks work together most. Where the host keeps the tables, other
# ops are as before.
for tool in memcheck racecheck; do
  filter='*_1:-*on_host*'
  if [[ $tool == racecheck ]]; then filter='*PagedAttention*_1:*OutputProj*_1:-*on_host*'; fi
  if [[ $mode != full ]]; then
    record "compute-sanitizer $tool" skipped 0 "only in a full run"
  elif ! command -v compute-sanitizer >/dev/null; then
    record "compute-sanitizer $tool" skipped 0 "not installed"
  else
    part "compute-sanitizer $tool" 60 sanitizer.log compute-sanitizer --tool "$tool" --error-exitcode 99 \
      "$conformance" --gtest_filter="$filter"
  fi
done

fast "synth:26b" 80 "${big[@]}"

# --- the table -------------------------------------------------------------------------------------------

if command -v python3 >/dev/null; then
  python3 tests/gpu/report.py "$results" >"$out/report.md" && cat "$out/report.md"
fi
for failure in "${failures[@]:-}"; do
  if [[ -n $failure ]]; then echo "failed: $failure"; fi
done
echo "$passed passed, $failed failed, $skipped skipped; $SECONDS s; logs in $out"
((failed == 0))
