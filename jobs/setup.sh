#!/usr/bin/env bash
# Installs what the build needs where it is missing (Debian 12, Ubuntu 22.04 or newer) and builds
# Quern into build/. Prints one line per step, and the whole log of a step that fails.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
build=$root/build

usage() {
  cat <<'END'
usage: bash jobs/setup.sh [--tests] [-D<cmake option>]...

Builds build/jobs/quern; with --tests also every test, with warnings as errors.
On systems without Debian packages, or with QUERN_SKIP_PACKAGES=1, nothing is installed and CMake
looks for the libraries by itself.

exit codes: 0 done, 64 command line, 69 packages missing, 70 build failed, 74 build/ not writable
END
}

say() { printf 'quern setup: %s\n' "$*" >&2; }
fail() { local code=$1; shift; say "error: $*"; exit "$code"; }

# step NAME CODE COMMAND...: one line when the command succeeds, its whole output when it does not.
step() {
  local name=$1 code=$2 start=$SECONDS
  shift 2
  if "$@" >"$log" 2>&1 </dev/null; then
    say "$name: done ($((SECONDS - start)) s)"
  else
    cat "$log" >&2
    fail "$code" "$name failed; the output of the command is above and in $log"
  fi
}

missing_packages() {
  local package status
  for package in "$@"; do
    status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || status=absent
    [[ $status == installed ]] || printf '%s\n' "$package"
  done
}

apt_update() { "${apt[@]}" update || { sleep 5; "${apt[@]}" update; }; }

install_packages() {
  local packages=(
    build-essential cmake ninja-build pkg-config libopenmpi-dev openmpi-bin libhdf5-dev
    libyaml-cpp-dev libspdlog-dev libfmt-dev libcli11-dev nlohmann-json3-dev libpcre2-dev
    libutf8proc-dev libxxhash-dev zlib1g-dev libssl-dev libopenblas-dev)
  if [[ $tests == ON ]]; then
    packages+=(libgtest-dev libgmock-dev python3 python3-numpy)
    # The pages are looked at in a browser; Ubuntu has it as a snap only, there the test is skipped.
    if grep -qx 'ID=debian' /etc/os-release; then
      packages+=(chromium fonts-dejavu-core)
    fi
  fi
  if [[ -n ${QUERN_SKIP_PACKAGES:-} ]] || ! { command -v dpkg-query && command -v apt-get; } >/dev/null
  then
    return 0
  fi
  local missing
  mapfile -t missing < <(missing_packages "${packages[@]}")
  ((${#missing[@]})) || return 0

  apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y -q)
  if [[ $(id -u) != 0 ]]; then
    if ! command -v sudo >/dev/null || ! sudo -v; then
      fail 69 "packages are missing and installing them needs root. Ask for:" \
        "apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    fi
    apt=(sudo "${apt[@]}")
  fi
  step "refresh the package lists" 69 apt_update
  step "install ${missing[*]}" 69 "${apt[@]}" install --no-install-recommends "${missing[@]}"
}

# As many compilers as cores, but no more than one per 1.5 GB of free memory.
parallel_jobs() {
  local cores free_kb limit
  cores=$(nproc)
  free_kb=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null) || limit=max
  if [[ $limit =~ ^[0-9]+$ ]] && ((limit / 1024 < free_kb)); then
    free_kb=$((limit / 1024))
  fi
  local jobs=$((free_kb / 1500000))
  ((jobs < cores)) || jobs=$cores
  ((jobs > 0)) || jobs=1
  printf '%s\n' "$jobs"
}

# A ccache that cannot write its cache fails every compilation, so it is tried first.
ccache_works() {
  command -v ccache >/dev/null || return 1
  printf 'int probe;\n' >"$build/probe.cpp"
  ccache c++ -c "$build/probe.cpp" -o "$build/probe.o" >/dev/null 2>&1
}

cached() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt" 2>/dev/null || true; }

configure() {
  local options=(-DCMAKE_BUILD_TYPE=RelWithDebInfo)
  if [[ $tests == ON ]]; then
    options+=(-DQUERN_TESTS=ON -DQUERN_WERROR=ON)
  elif [[ -z $(cached QUERN_TESTS) ]]; then
    options+=(-DQUERN_TESTS=OFF)
  fi
  if ccache_works; then
    options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  else
    options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=)
  fi
  # A cache of a moved checkout or of another generator would stop CMake.
  if [[ $(cached CMAKE_HOME_DIRECTORY) != "$root" || $(cached CMAKE_GENERATOR) != Ninja ]]; then
    rm -rf "$build/CMakeCache.txt" "$build/CMakeFiles"
  fi
  step configure 70 cmake -G Ninja -S "$root" -B "$build" "${options[@]}" "$@"
}

tests=OFF
options=()
for argument in "$@"; do
  case $argument in
    --tests) tests=ON ;;
    -h | --help) usage; exit 0 ;;
    -D?*) options+=("$argument") ;;
    *) usage >&2; fail 64 "unknown argument '$argument'" ;;
  esac
done

log=$build/setup.log
if ! mkdir -p "$build" 2>/dev/null || ! touch "$log" "$build/setup.lock" 2>/dev/null; then
  fail 74 "cannot write to $build as user $(id -un 2>/dev/null || id -u);" \
    "it may belong to another user: remove it, or use a checkout of your own"
fi
exec 9>"$build/setup.lock"
flock 9
if [[ -z ${HOME:-} ]]; then
  export HOME=$build
fi

install_packages
configure ${options[@]+"${options[@]}"}
target=quern
[[ $tests == OFF ]] || target=all
step build 70 cmake --build "$build" --parallel "$(parallel_jobs)" --target "$target"
