#!/usr/bin/env bash
# Builds everything with warnings as errors and runs the tests; see usage.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
  cat <<'END'
usage: bash tests/run.sh [--long] [--gpu] [CTEST ARGUMENT]...

Without options: every test that is neither long nor needs a GPU.
  --long   the long ones as well
  --gpu    only the tests that need a GPU
Further arguments go to ctest, for example: bash tests/run.sh -R gptq -V
END
}

long=no
gpu=no
arguments=()
for argument in "$@"; do
  case $argument in
    --long) long=yes ;;
    --gpu) gpu=yes ;;
    -h | --help) usage; exit 0 ;;
    *) arguments+=("$argument") ;;
  esac
done

bash "$root/jobs/setup.sh" --tests
cd "$root/build"
if [[ -z ${HOME:-} ]]; then
  export HOME=$PWD
fi

# ctest keeps only its last -LE, so there is one, with every label that is left out.
excluded=()
[[ $gpu == yes ]] || excluded+=(gpu)
[[ $long == yes ]] || excluded+=(long)
selection=()
if ((${#excluded[@]})); then
  selection+=(-LE "^($(IFS='|'; printf '%s' "${excluded[*]}"))\$")
fi
if [[ $gpu == yes ]]; then
  selection+=(-L '^gpu$')
  if ctest -N "${selection[@]}" | grep -q '^Total Tests: 0$'; then
    printf 'quern tests: error: this build has no GPU tests: %s\n' \
      'it was configured without a CUDA toolkit. Run without --gpu for the others.' >&2
    exit 64
  fi
fi
exec ctest --output-on-failure -j2 ${selection[@]+"${selection[@]}"} ${arguments[@]+"${arguments[@]}"}
