#!/usr/bin/env bash
# Checks the models over all their states, and that every
# mutation is refuted. Needs spin and a C compiler; about a minute.
# usage: tests/model/run.sh [--deep]    --deep: more crashes and deaths (minutes, gigabytes)
set -euo pipefail
command -v spin >/dev/null || { echo 'spin is not installed: ./setup.sh --tests'; exit 77; }
here=$(cd "$(dirname "$0")" && pwd)
crashes=1 deaths=1 losses=1
[ "${1:-}" != --deep ] || { crashes=2; deaths=2; }
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"

# check NAME MODEL C-FLAGS SPIN-FLAGS PAN-FLAGS...: prints states and errors; leaves "errors: N" in $errors.
check() {
  local name=$1 model=$2 cflags=$3 defines=$4; shift 4
  spin $defines -a "$here/$model" >spin.out 2>&1 || { cat spin.out; exit 1; }
  cc -O2 -w -DCOLLAPSE -DVECTORSZ=4096 $cflags -o pan pan.c
  ./pan -m5000000 -w25 "$@" >pan.out 2>&1 || true
  errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.out)
  [ -n "$errors" ] || { echo "$name: the checker gave up:"; tail -5 pan.out; exit 1; }
  ! grep -q 'max search depth too small\|out of memory' pan.out || { echo "$name: not all of it was searched"; exit 1; }
  states=$(sed -n 's/ *\([0-9.e+]*\) states, stored.*/\1/p' pan.out)
}
failed=0
holds() {
  check "$@"
  printf '%-34s %10s states  %s\n' "$1" "$states" "$([ "$errors" = 0 ] && echo holds || echo REFUTED)"
  [ "$errors" = 0 ] || { failed=1; grep -m3 'pan:' pan.out; }
}
refuted() {  # NAME MODEL CFLAGS DEFINES...: by one of the settings
  local name=$1 model=$2 cflags=$3; shift 3
  for defines in "$@"; do
    check "$name" "$model" "$cflags" "$defines"
    [ "$errors" = 0 ] || { printf '%-34s %10s states  refuted, as it must be\n' "$name" "$states"; return; }
  done
  printf '%-34s %10s states  NOT FOUND\n' "$name" "$states"; failed=1
}

pool="-DCRASHES=$crashes -DDEATHS=$deaths -DLOSSES=$losses"
own="-DCRASHES=$crashes -DDEATHS=$deaths -DLOSSES=$losses -DOWN_ONLY"
holds "attempts in a pool of two hosts" attempts.pml "-DSAFETY" "$pool"
holds "attempts in processes of their own" attempts.pml "-DSAFETY" "$own"
for m in $(grep -o 'MUT_[A-Z_]*[A-Z]' "$here/attempts.pml" | sort -u); do
  refuted "$m" attempts.pml "-DSAFETY" "$own -D$m" "$pool -D$m"
done
[ "$failed" = 0 ] && echo "the models hold, and every mutation is refuted"
exit "$failed"
