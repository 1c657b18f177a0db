#!/usr/bin/env bash
# Crash points of the whole daemon over its real journal on a simulated disk, one after the other.
# usage: tests/sim/run.sh [--points N] [--seed S [--only POINT]]    default: 20000 points
#        tests/sim/run.sh --campaign [--points N]                   default: 1000000; goes on where it was
# The last line reads like "20000 crash points, 0 lost, 0 duplicate". Any other end is a failure, which prints
# the seed, the point, and the shortest history that shows it.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${BP_BUILD_DIR:-build/release}
program=$build/tests/sim_points
[ -x "$program" ] || { echo "$program is not there: cmake --build it first" >&2; exit 2; }
campaign=no args=() points=""
while [ $# -gt 0 ]; do
  case "$1" in
    --campaign) campaign=yes ;;
    --points) points=$2; shift ;;
    -h|--help) sed -n 2,6p "$0"; exit 0 ;;
    *) args+=("$1") ;;
  esac
  shift
done
if [ "$campaign" = no ]; then exec "$program" --points "${points:-20000}" "${args[@]}"; fi

# In pieces of 20,000 points, so that others get a turn and nothing is lost when it is stopped.
aim=${points:-1000000} state=build/campaign/sim.state
mkdir -p build/campaign
sum=0 seed=1 seconds=0
[ ! -s "$state" ] || read -r sum seed seconds <"$state"
while [ "$sum" -lt "$aim" ]; do
  begin=$(date +%s%N)
  nice -n 19 "$program" --points 20000 --seed "$seed" "${args[@]}" >build/campaign/sim.log || {
    cat build/campaign/sim.log; exit 1; }
  made=$(sed -n 's/^\([0-9]*\) crash points, 0 lost, 0 duplicate$/\1/p' build/campaign/sim.log)
  last=$(sed -n 's/.* histories up to seed \([0-9]*\);.*/\1/p' build/campaign/sim.log)
  sum=$((sum + made)) seed=$((last + 1)) seconds=$((seconds + ($(date +%s%N) - begin) / 1000000))
  echo "$sum $seed $seconds" >"$state"
  echo "$sum crash points up to seed $last, $((sum * 1000 / seconds)) a second"
done
echo "$sum crash points, 0 lost, 0 duplicate"
