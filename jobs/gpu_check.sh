#!/usr/bin/env bash
# Builds with CUDA and runs the tests that need a GPU, without any network; see usage.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
build=${QUERN_GPU_BUILD:-$root/build-gpu}
packages=${QUERN_PACKAGES:-}

usage() {
  cat <<'END'
usage: bash jobs/gpu_check.sh [--sanitizer TOOL] [-D<cmake option>]... [CTEST ARGUMENT]...

Builds the tests labelled gpu into build-gpu/, runs them and prints a table of results.
Needs a compiler for C++20, nvcc, CMake and ninja; installs nothing and opens no connection.
  --sanitizer TOOL  only the tests of kernels, under compute-sanitizer: memcheck, racecheck,
                    initcheck or synccheck; many at a time, as each becomes far slower

Environment:  QUERN_PACKAGES   folder that the Debian packages which this machine lacks were
                               extracted into (dpkg -x PACKAGE.deb FOLDER), for a build in place
              QUERN_GPU_BUILD  build folder (default: build-gpu)
              QUERN_JOBS       compilers at a time (default: 16)

exit codes: 0 all passed, 1 a test failed, 64 command line, 69 tools missing, 70 build failed
END
}

say() { printf 'quern gpu check: %s\n' "$*" >&2; }
fail() { local code=$1; shift; say "error: $*"; exit "$code"; }

# Extracted packages know only /usr; this tells everything that looks for them where they are.
use_packages() {
  local usr=$packages/usr lib tool file
  [[ -d $usr ]] || fail 64 "QUERN_PACKAGES=$packages holds no usr/"
  lib=$usr/lib/$(gcc -dumpmachine)
  mkdir -p "$build/bin" "$build/pkgconfig"
  export LD_LIBRARY_PATH=$lib:$lib/openmpi/lib:$lib/openblas-pthread:$lib/hdf5/serial${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export PKG_CONFIG_PATH=$build/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
  export CMAKE_PREFIX_PATH=$usr${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}
  export PATH=$build/bin:$PATH
  for file in "$lib"/pkgconfig/*.pc "$lib"/openblas-*/pkgconfig/openblas.pc; do
    [[ ! -f $file ]] || sed "s|=/usr|=$usr|" "$file" >"$build/pkgconfig/${file##*/}"
  done
  if [[ -x $usr/bin/opal_wrapper ]]; then
    export OPAL_PREFIX=$usr
    for tool in mpicc mpirun mpiexec; do
      ln -sfn "$usr/bin/$tool.openmpi" "$build/bin/$tool"
    done
    options+=("-DMPI_C_COMPILER=$build/bin/mpicc" "-DMPIEXEC_EXECUTABLE=$build/bin/mpiexec")
  fi
  if [[ -d $usr/include/hdf5/serial ]]; then
    options+=(-DHDF5_C_COMPILER_EXECUTABLE= "-DHDF5_C_INCLUDE_DIR=$usr/include/hdf5/serial"
      "-DHDF5_hdf5_LIBRARY_RELEASE=$lib/hdf5/serial/libhdf5.so")
  fi
}

# step NAME COMMAND...: one line when the command succeeds, the end of its output when it does not.
step() {
  local name=$1 start=$SECONDS
  shift
  if "$@" >"$build/$name.log" 2>&1 </dev/null; then
    say "$name: done ($((SECONDS - start)) s)"
  else
    tail -n 60 "$build/$name.log" >&2
    fail 70 "$name failed; all of its output is in $build/$name.log"
  fi
}

# One line per test program from the verbose output of ctest.
table() {
  sed 's/\r//' "$1" | awk '
    BEGIN { printf "%-36s %-9s %6s %7s %6s %8s\n", "test", "result", "passed", "skipped", "failed", "seconds" }
    /^[0-9]+: / { id = $1 + 0 }
    /^[0-9]+: \[       OK \]/ { ok[id]++ }
    /^[0-9]+: \[  SKIPPED \].*\([0-9]+ ms\)/ { skipped[id]++ }
    /^[0-9]+: \[  FAILED  \].*\([0-9]+ ms\)/ { failed[id]++ }
    / Test +#[0-9]+: / {
      sub(/^.* Test +#/, "")
      id = $1 + 0
      if (!ok[id] && skipped[id] && /Passed/) sub(/Passed/, "Skipped")
      result = /Passed/ ? "passed" : /Not Run/ ? "not run" : /Skipped/ ? "skipped" : /Timeout/ ? "timeout" : "FAILED"
      printf "%-36s %-9s %6d %7d %6d %8s\n", $2, result, ok[id], skipped[id], failed[id], $(NF - 1)
    }'
}

# sanitize TOOL: the tests of kernels in parts, side by side; one line for each program. Racecheck
# looks at our kernels only: it takes minutes for those of libraries, and fails in those of cuBLAS,
# of which CudaLinearTest consists. Neither it nor initcheck sees what those for Hopper store, where
# rows are aligned as in RowsAreMeasuredAloneAsBesideOthers (and not in the test beside it).
sanitize() {
  local tool=$1 parts=${QUERN_JOBS:-16} program part reports failed=0 ours=()
  case $tool in
    racecheck)
      ours=(--kernel-name kns=quern)
      export GTEST_FILTER='-*CudaLinearTest*:*RowsAreMeasuredAlone*'
      ;;
    initcheck) export GTEST_FILTER='-*RowsAreMeasuredAlone*' ;;
  esac
  for program in cuda_ops_test cuda_solver_test; do
    local file=$build/tests/kernels/cuda/$program log=$build/$program-$tool
    for ((part = 0; part < parts; ++part)); do
      GTEST_TOTAL_SHARDS=$parts GTEST_SHARD_INDEX=$part compute-sanitizer --tool "$tool" \
        ${ours[@]+"${ours[@]}"} --error-exitcode 1 "$file" >"$log-$part.log" 2>&1 </dev/null &
    done
    for ((part = 0; part < parts; ++part)); do wait -n || failed=1; done
    reports=$(cat "$log"-*.log | grep -cE '^=+ (Error|Warning|Invalid|Uninitialized|Race|Barrier)') || true
    printf '%-20s %-10s %s reports, logs %s-*.log\n' "$program" "$tool" "$reports" "$log"
  done
  return "$failed"
}

options=(-DCMAKE_BUILD_TYPE=RelWithDebInfo -DQUERN_TESTS=ON -DQUERN_CUDA=ON)
arguments=()
sanitizer=
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --sanitizer) sanitizer=${2:-nothing}; shift ;;
    -D?*) options+=("$1") ;;
    *) arguments+=("$1") ;;
  esac
  (($#)) && shift
done
case $sanitizer in
  '') ;;
  memcheck | racecheck | initcheck | synccheck)
    command -v compute-sanitizer >/dev/null || fail 69 "compute-sanitizer is missing" ;;
  *) fail 64 "--sanitizer '$sanitizer': expected memcheck, racecheck, initcheck or synccheck" ;;
esac
for tool in gcc g++ cmake ninja ctest; do
  command -v "$tool" >/dev/null || fail 69 "$tool is missing"
done

mkdir -p "$build"
export HOME=${HOME:-$build}
[[ -z $packages ]] || { packages=$(cd "$packages" && pwd -P); use_packages; }
step configure cmake -G Ninja -S "$root" -B "$build" "${options[@]}"
step build cmake --build "$build" --parallel "${QUERN_JOBS:-16}" --target gpu_tests

nvidia-smi -L >&2 || say "no nvidia-smi here: without a GPU every test is skipped"
export GTEST_COLOR=no
if [[ -n $sanitizer ]]; then
  sanitize "$sanitizer"
  exit
fi
status=0
ctest --test-dir "$build" -L '^gpu$' -V ${arguments[@]+"${arguments[@]}"} >"$build/tests.log" 2>&1 </dev/null ||
  status=1
table "$build/tests.log"
grep -E '(^|: )(\[rank [0-9]+\] .*|.*(Failure|[Ee]rror:|Segmentation|what\(\)).*)$' "$build/tests.log" | head -n 60 || true
say "the output of the tests is in $build/tests.log"
exit "$status"
