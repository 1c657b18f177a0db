#!/usr/bin/env bash
# The one door to all benchmarks: tests/bench/run.sh [NAME...] [--json] [--runs N] [--list]
# A table, or one JSON object a line: name, value, unit, runs, aim, limit, peer. Values are medians.
exec python3 "$(dirname "$0")/bench.py" "$@"
