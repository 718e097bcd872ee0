#!/usr/bin/env bash
# Usage: format.sh ROOT. Fails if clang-format would change a source file; 77 (skipped) without
# clang-format 14, as other versions format differently.
set -euo pipefail
cd "$1"

formatter=
for candidate in clang-format-14 clang-format; do
  if "$candidate" --version 2>/dev/null | grep -q 'version 14\.'; then
    formatter=$candidate
    break
  fi
done
[[ -n $formatter ]] || { echo 'clang-format 14 is not installed'; exit 77; }

folders=(kernels workers pipeline jobs tests)
sources() {
  git ls-files -z -- "${folders[@]}" 2>/dev/null || find "${folders[@]}" -type f -print0
}
mapfile -d '' -t files < <(sources | grep -zE '\.(h|cpp|cu|cuh)$')
existing=()
for file in "${files[@]}"; do
  [[ ! -f $file ]] || existing+=("$file")
done
"$formatter" --dry-run -Werror "${existing[@]}"
echo "${#existing[@]} files are formatted"
