#!/usr/bin/env bash
# Installs the SDK of a build folder below a temporary prefix, builds this example against it as a
# stranger would, and runs the example's own test. Usage: test.sh BUILD_DIR [CXX_FLAGS]
set -euo pipefail
source_dir="$(cd "$(dirname "$0")" && pwd)"
build="${1:?usage: test.sh BUILD_DIR [CXX_FLAGS]}"
work="$(mktemp -d /tmp/bp-custom-stage-XXXXXX)"
trap 'rm -rf "$work"' EXIT
cp "$source_dir"/CMakeLists.txt "$source_dir"/*.cc "$work"  # nothing of the source tree is near
cmake --install "$build" --component sdk --prefix "$work/prefix" >"$work/install.log" 2>&1 ||
  { tail -20 "$work/install.log"; exit 1; }
cmake -S "$work" -B "$work/build" -G Ninja -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_CXX_FLAGS="${2:-}" \
  >"$work/configure.log" 2>&1 || { cat "$work/configure.log"; exit 1; }
cmake --build "$work/build" >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
ctest --test-dir "$work/build" --output-on-failure
