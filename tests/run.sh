#!/usr/bin/env bash
# Sets up, builds and runs every test; ends with "N passed, N failed". What takes longer than CI allows is in
# tests/campaign.sh.
set -uo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'TXT'
usage: tests/run.sh [--suite release|asan|tsan|fuzz]... [--no-setup] [-R REGEX]
  --suite S    only these suites (default: release asan tsan fuzz)
  --no-setup   take packages, model and Python environment as they are
  -R REGEX     only tests whose name matches (release, asan and tsan suites)
TXT
}

suites=() setup=yes filter=()
while [ $# -gt 0 ]; do
  case "$1" in
    --suite) suites+=("${2:?--suite takes a name}"); shift ;;
    --no-setup) setup=no ;;
    -R) filter=(-R "${2:?-R takes a pattern}"); shift ;;
    -h|--help) usage; exit 0 ;;
    *) echo "tests/run.sh: unknown option $1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
[ ${#suites[@]} -gt 0 ] || suites=(release asan tsan fuzz)

say() { printf '\n== [%s] %s\n' "$(date +%T)" "$*"; }
die() { printf '\ntests/run.sh: %s\n' "$*" >&2; exit 1; }
logs=build/test-logs
mkdir -p "$logs"

if [ "$setup" = yes ]; then
  say "set-up"
  ./setup.sh --tests || die "set-up failed; the line above says what is missing"
fi
command -v ccache >/dev/null && export CCACHE_BASEDIR="$PWD" CCACHE_NOHASHDIR=1

passed=0 failed=0 failures=()

# run_ctest PRESET [ctest options]: counts from ctest's own summary.
run_ctest() {
  local preset=$1; shift
  local log="$logs/$preset.log"
  ctest --preset "$preset" --output-on-failure "$@" "${filter[@]}" 2>&1 | tee "$log" | grep -vE '^ +Start '
  local line total bad
  line=$(grep -E '[0-9]+% tests passed, [0-9]+ tests failed out of [0-9]+' "$log" | tail -1)
  [ -n "$line" ] || die "ctest of preset $preset printed no summary; see $log"
  bad=$(sed -E 's/.* ([0-9]+) tests failed out of.*/\1/' <<<"$line")
  total=$(sed -E 's/.*out of ([0-9]+).*/\1/' <<<"$line")
  passed=$((passed + total - bad)); failed=$((failed + bad))
  [ "$bad" = 0 ] || failures+=("suite $preset: $bad failed; see $log, repeat one with: ctest --preset $preset -R NAME --output-on-failure")
}

build() {
  local preset=$1; shift
  say "build: $preset"
  cmake --preset "$preset" >"$logs/configure-$preset.log" 2>&1 || { tail -20 "$logs/configure-$preset.log"; die "cmake --preset $preset failed"; }
  cmake --build --preset "$preset" "$@" >"$logs/build-$preset.log" 2>&1 || { grep -E -A8 'error|FAILED' "$logs/build-$preset.log" | head -60; die "the $preset build failed; see $logs/build-$preset.log"; }
}

for suite in "${suites[@]}"; do
  case "$suite" in
    release)
      build release
      say "every test, release build"
      run_ctest release -j2 ;;
    asan)
      build asan --target sanitizer_tests
      say "address and undefined-behaviour sanitizers: unit and conformance tests"
      run_ctest asan -L 'unit|conformance|sim|fuzz' -j2 ;;
    tsan)
      build tsan --target thread_tests
      say "thread sanitizer: what runs on several threads"
      run_ctest tsan -L threads -j2 ;;
    fuzz)
      build fuzz --target fuzzers
      say "fuzzers, shortly, from the committed corpus"
      run_ctest fuzz -L fuzz -j2 ;;
    *) die "unknown suite $suite" ;;
  esac
done

say "summary"
for f in "${failures[@]:-}"; do [ -z "$f" ] || echo "  $f"; done
[ $((passed + failed)) -gt 0 ] || die "no test ran"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
