#!/usr/bin/env bash
# Breaks the engine on purpose, one patch at a time, and shows that the simulation finds it.
# usage: tests/mutations/run.sh [--points N] [NAME...]     default: all, 20000 points each at most
# Works in a copy of the tree (BP_MUTATION_DIR, default build/mutations), which it builds once and then a file or
# two per patch. Prints a line a patch; fails when one is not found, or does not apply or build any more.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD points=20000 names=()
while [ $# -gt 0 ]; do
  case "$1" in
    --points) points=$2; shift ;;
    -h|--help) sed -n 2,6p "$0"; exit 0 ;;
    *) names+=("$1") ;;
  esac
  shift
done
if [ ${#names[@]} = 0 ]; then
  for p in tests/mutations/*.patch; do names+=("$(basename "$p" .patch)"); done
fi
tree=${BP_MUTATION_DIR:-build/mutations}
mkdir -p "$tree"; tree=$(cd "$tree" && pwd)
# Only what differs is written, so that a second run builds little.
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' f; do
  [ ! -f "$f" ] || cmp -s "$f" "$tree/$f" || { mkdir -p "$tree/$(dirname "$f")"; cp -p "$f" "$tree/$f"; }
done
build() { ninja -C build/release sim_points >build/mutant.log 2>&1; }
cd "$tree"
[ -f build/release/build.ninja ] || cmake --preset release >/dev/null
mkdir -p build
build || { grep -m5 error build/mutant.log; echo "the tree does not build"; exit 2; }
build/release/tests/sim_points --points 2000 >build/sound.log || { cat build/sound.log; echo "the tree fails unbroken"; exit 2; }

missed=0
for name in "${names[@]}"; do
  patch_file=$root/tests/mutations/$name.patch
  if ! patch -p1 -s -N --no-backup-if-mismatch <"$patch_file" >build/patch.log 2>&1; then
    patch -p1 -s -R -f <"$patch_file" >/dev/null 2>&1 || true
    printf '%-32s DOES NOT APPLY\n' "$name"; missed=1; continue
  fi
  if ! build; then
    printf '%-32s DOES NOT BUILD: %s\n' "$name" "$(grep -m1 error build/mutant.log)"; missed=1
  elif build/release/tests/sim_points --points "$points" --no-shrink >build/found.log 2>&1; then
    printf '%-32s NOT FOUND in %s points\n' "$name" "$points"; missed=1
  else
    at=$(sed -n 's/^  at //p' build/found.log | head -1)
    what=$(sed -n '3s/^ *//p' build/found.log | cut -c1-150)
    seed=$(sed -n 's/^FAILED: \(seed=[0-9]*\).*/\1/p' build/found.log)
    printf '%-32s found: %s, %s: %s\n' "$name" "$seed" "$at" "$what"
  fi
  patch -p1 -s -R <"$patch_file"
done
[ "$missed" = 0 ] && echo "${#names[@]} mutations, all found" || echo "not all were found"
exit "$missed"
