#!/usr/bin/env bash
# What takes longer than CI allows. Each campaign can be stopped at any time and goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
usage() {
  cat <<'TXT'
usage: tests/campaign.sh NAME [options]
  kill-matrix [--kills N]   kill -9 of each kind of process in each stage, 5 kills a cell (about 20 minutes)
  streams [--minutes N]     16 streams while ranks and nodes die beneath them (default 10 minutes)
  determinism               the same tokens in all 288 cells of TP x PP x batch x chunk x preemption x prefix hits
  sim [--points N]          crash points of the simulation (default 1,000,000)
  mutations [NAME...]       break the engine on purpose and show that the simulation finds it
  model                     the model of the protocol, with wider bounds
  fuzz [SECONDS]            every fuzzer for SECONDS (default 600); what it finds grows build/fuzz/fuzz
Results are kept in build/campaign; delete it to start afresh. Needs a build: tests/run.sh makes one.
TXT
}
[ $# -gt 0 ] || { usage >&2; exit 2; }
name=$1; shift
mkdir -p build/campaign
case "$name" in
  kill-matrix) exec python3 tests/fault/kill_matrix.py --resume build/campaign/kill-matrix.json "$@" ;;
  streams)
    case " $* " in *" --minutes "*|*" --seconds "*) ;; *) set -- --minutes 10 "$@" ;; esac
    exec python3 tests/fault/streams.py "$@" ;;
  determinism) BP_DETERMINISM=all exec build/release/tests/golden_determinism "$@" ;;
  kills) exec python3 tests/fault/kills/daemon_kills.py --kills 500 "$@" ;;
  sim) exec tests/sim/run.sh --campaign "$@" ;;
  mutations) exec tests/mutations/run.sh "$@" ;;
  model) exec tests/model/run.sh --deep ;;
  fuzz)
    cmake --preset fuzz -DBP_FUZZ_SECONDS="${1:-600}" >/dev/null && cmake --build --preset fuzz --target fuzzers
    exec ctest --preset fuzz -L fuzz --output-on-failure ;;
  -h|--help) usage ;;
  *) usage >&2; exit 2 ;;
esac
