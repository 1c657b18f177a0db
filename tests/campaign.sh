#!/usr/bin/env bash
# What takes longer than CI allows. Each campaign can be stopped at any time and goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
usage() {
  cat <<'TXT'
usage: tests/campaign.sh NAME [options]
  kill-matrix [--kills N]   kill -9 of each kind of process in each stage, 5 kills a cell (about 20 minutes)
  fuzz [SECONDS]            every fuzzer for SECONDS (default 600), growing build/campaign/corpus
Results are kept in build/campaign; delete it to start afresh. Needs a build: tests/run.sh makes one.
TXT
}
[ $# -gt 0 ] || { usage >&2; exit 2; }
name=$1; shift
mkdir -p build/campaign
case "$name" in
  kill-matrix) exec python3 tests/fault/kill_matrix.py --resume build/campaign/kill-matrix.json "$@" ;;
  fuzz)
    seconds=${1:-600}
    cmake --preset fuzz >/dev/null && cmake --build --preset fuzz --target fuzzers
    for f in build/fuzz/fuzzers/*_fuzz; do
      n=$(basename "$f"); mkdir -p "build/campaign/corpus/$n"
      "$f" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -artifact_prefix=build/campaign/ \
        "build/campaign/corpus/$n" "tests/fuzz/corpus/${n%_fuzz}"
    done ;;
  -h|--help) usage ;;
  *) usage >&2; exit 2 ;;
esac
