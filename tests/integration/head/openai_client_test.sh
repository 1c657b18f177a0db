#!/bin/bash
# Runs openai_client_test.py with the Python environment that ./setup.sh --tests makes.
set -eu
python="${BP_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/bp-daemon}/venv/bin/python"
if ! "$python" -c 'import openai' 2>/dev/null; then
  echo "the Python package openai is missing from $python; run ./setup.sh --tests" >&2
  exit 1
fi
exec "$python" "$(dirname "$0")/openai_client_test.py" "$1"
