#!/usr/bin/env bash
# Builds what tests/gpu/run.sh needs on a machine with a GPU, build/gpu/carry/programs.tar.gz: stripped
# programs that link nothing but libc. Needs nvcc of CUDA 13 and our packages here, but no GPU. Fails if a
# program would need another library or more than libc 2.36 (Debian 12), or if the archive is too large.
set -euo pipefail
cd "$(dirname "$0")/../.."
readonly programs=(tests/cuda_conformance_test tests/cuda_attention_test tests/cuda_golden_test bench/kernel_bench
                  tests/nccl_communicator_device_test bin/facet)
readonly carry=build/gpu/carry
readonly carry_mib_max=30  # With the repository's files beside it: under 60 MiB.

PATH=$PATH:/usr/local/cuda/bin
command -v nvcc >/dev/null || { echo "nvcc is not here: the CUDA 13 toolkit is needed"; exit 1; }
cmake --preset gpu >/dev/null
ninja -C build/gpu "${programs[@]##*/}"

stripped=build/gpu/stripped
rm -rf "$stripped" "$carry"
mkdir -p "$stripped" "$carry"
bad=0
for program in "${programs[@]}"; do
  strip -o "$stripped/${program##*/}" "build/gpu/$program"
  program=$stripped/${program##*/}
  others=$(objdump -p "$program" | awk '$1 == "NEEDED" {print $2}' |
    grep -vE '^(libc|libm|libdl|librt|libpthread)\.so|^ld-linux' || true)
  libc=$(objdump -T "$program" | grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -1)
  echo "$(du -k "$program" | cut -f1) KiB  ${program##*/}, ${libc/_/ }${others:+, needs} $others"
  if [[ -n $others || $(printf '%s\n' GLIBC_2.36 "$libc" | sort -V | tail -1) != GLIBC_2.36 ]]; then bad=1; fi
done
tar -czf "$carry/programs.tar.gz" -C "$stripped" .
mib=$(du -m "$carry/programs.tar.gz" | cut -f1)
echo "$mib MiB in $carry/programs.tar.gz, at most $carry_mib_max"
((bad == 0 && mib <= carry_mib_max))
