#!/usr/bin/env bash
# From a fresh checkout to a quantized model on this machine; see usage.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
  cat <<'END'
usage: bash jobs/run.sh CONFIG [-n RANKS] [--set KEY=VALUE]...

Installs and builds what is missing (jobs/setup.sh), then quantizes as the run file CONFIG says,
with RANKS processes (default 2) on this machine: `quern quantize`, or `quern sweep` where CONFIG
has a sweep. Further arguments go there.

CONFIG is looked up from the current directory, then from the root of the repository. The run itself
works in the root of the repository: relative paths inside CONFIG start there.

On a cluster use jobs/slurm/. Inside a Slurm allocation this script uses the current node only.

  bash jobs/run.sh configs/quickstart.yaml
  bash jobs/run.sh configs/quickstart.yaml -n 4 --set quantize.bits=3

exit codes: those of quern; 64 command line, 69 packages missing, 70 build failed, 74 not writable
END
}

fail() { printf 'quern run: error: %s\n' "$*" >&2; exit 64; }

config=
ranks=2
arguments=()
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    -n) [[ ${2:-} =~ ^[1-9][0-9]{0,3}$ ]] || fail "-n needs a number of ranks, got '${2:-}'"
        ranks=$2; shift ;;
    --set) [[ ${2:-} == *=* ]] || fail "--set needs KEY=VALUE, got '${2:-}'"
           arguments+=(--set "$2"); shift ;;
    -*) arguments+=("$1") ;;
    *) if [[ -z $config ]]; then config=$1; else arguments+=("$1"); fi ;;
  esac
  shift
done
[[ -n $config ]] || { usage >&2; fail "the run file is missing"; }
if [[ ! -f $config && -f $root/$config ]]; then
  config=$root/$config
fi
[[ -f $config ]] || fail "no run file '$config', neither in $PWD nor in $root"
config=$(realpath -- "$config")

bash "$root/jobs/setup.sh"
cd "$root"

# This machine only: whatever an enclosing Slurm step tells its MPI processes is not for these ranks.
for variable in "${!SLURM_@}" "${!PMI_@}" "${!PMIX_@}"; do
  unset "$variable"
done
if [[ -z ${HOME:-} ]]; then
  export HOME=$root/build
fi

# Unbound, as a rank runs several threads; the program shares the cores among the ranks itself.
mpirun=(mpirun --quiet --bind-to none -n "$ranks")
if [[ $(id -u) == 0 ]]; then
  mpirun+=(--allow-run-as-root)
fi
if ((ranks > 1)); then
  mpirun+=(--oversubscribe)
fi
command=quantize
if grep -q '^sweep:' "$config"; then
  command=sweep
fi
exec "${mpirun[@]}" build/jobs/quern "$command" "$config" ${arguments[@]+"${arguments[@]}"}
