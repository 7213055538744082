#!/usr/bin/env bash
# run.sh PREFIX FOLDER SCRIPT [ARGUMENT…]: runs a test of the installation at PREFIX in an empty FOLDER, with a home of its own and nothing
# of the caller's that could stand in for what the installation lacks. The script finds these functions and variables:
#   $PREFIX        the installation, $PREFIX/bin first in PATH
#   says TEXT CMD… CMD succeeds and prints TEXT
#   refuses TEXT CMD…  CMD fails with a small exit code and one line that holds TEXT
set -euo pipefail
PREFIX=$1 folder=$2 script=$3
shift 3
# cargo looks for its toolchain in the caller's home.
export RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup} CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}
rm -rf "$folder"
mkdir -p "$folder/home"
cd "$folder"
export PREFIX PATH=$PREFIX/bin:$PATH HOME=$folder/home PKG_CONFIG_PATH=$PREFIX/lib/pkgconfig CMAKE_PREFIX_PATH=$PREFIX OMP_NUM_THREADS=2
unset TENON_HOME XDG_DATA_HOME XDG_CONFIG_HOME LD_LIBRARY_PATH
HERE=$(cd "$(dirname "$script")" && pwd)

says() {
  local text=$1 out
  shift
  out=$("$@" 2>&1) || { echo "FAILED: $* ended with $?: $out" >&2; return 1; }
  [[ $out == *"$text"* ]] || { echo "FAILED: $* does not say \"$text\": $out" >&2; return 1; }
}
refuses() {
  local text=$1 out code=0
  shift
  out=$("$@" 2>&1) || code=$?
  [ "$code" -ge 1 ] && [ "$code" -le 9 ] || { echo "FAILED: $* ended with $code instead of a refusal: $out" >&2; return 1; }
  [ "$(wc -l <<<"$out")" -eq 1 ] && [[ $out == *"$text"* ]] || { echo "FAILED: $* does not refuse with \"$text\": $out" >&2; return 1; }
}
set -E
trap 'echo "FAILED: $script, line $LINENO: $BASH_COMMAND" >&2' ERR
source "$script" "$@"
