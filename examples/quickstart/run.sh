#!/usr/bin/env bash
# From nothing to a streamed answer: installs what is missing, builds, starts an object store with a small
# model on loopback, deploys examples/recipes/quickstart.json over two local nodes with two ranks each
# (TP=2, PP=2, the CPU standing in for each GPU), asks one question and stops everything.
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() {
  cat <<'TXT'
usage: examples/quickstart/run.sh [--keep] [--question TEXT] [--no-setup]
  --keep           leave the deployment, the daemon and the object store running, and say how to stop them
  --question TEXT  what to ask (default: What is the capital of France?)
  --no-setup       take the packages and the model as they are
TXT
}

keep=no setup=yes question='What is the capital of France?'
while [ $# -gt 0 ]; do
  case "$1" in
    --keep) keep=yes ;;
    --no-setup) setup=no ;;
    --question) question="${2:?--question takes a text}"; shift ;;
    -h|--help) usage; exit 0 ;;
    *) echo "run.sh: unknown option $1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done

now_ms() { date +%s%3N; }
phase_names=() phase_ms=()
phase() { phase_names+=("$1"); phase_ms+=("$2"); }
say() { printf '\n== %s\n' "$*"; }
die() { printf '\nquickstart failed: %s\n' "$*" >&2; exit 1; }

cache="${BP_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/bp-daemon}"
home="$cache/quickstart"
export BP_STATE_DIR="$home/state"
export BP_RUN_DIR="${XDG_RUNTIME_DIR:-/tmp}/bp-quickstart-$(id -u)"
bin=build/release/bin
store_pid='' started=no

cleanup() {
  local status=$?
  trap - EXIT INT TERM
  if [ "$keep" = no ] || [ $status != 0 ]; then
    if [ "$started" = yes ]; then
      "$bin/bp" stop quickstart >/dev/null 2>&1 || true
      "$bin/bp" daemon stop >/dev/null 2>&1 || true
    fi
    if [ -n "$store_pid" ]; then kill "$store_pid" 2>/dev/null || true; wait "$store_pid" 2>/dev/null || true; fi
    rm -f "$home/recipe.json" "$home/token" "$home/par-url"
  fi
  exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM

t=$(now_ms)
if [ "$setup" = yes ]; then say "1/6 set-up"; ./setup.sh; fi
phase "set-up" $(($(now_ms) - t))

say "2/6 build (the first time some minutes, later seconds)"
t=$(now_ms)
mkdir -p build
cmake --preset release >build/configure.log 2>&1 || { tail -20 build/configure.log; die "cmake --preset release: see build/configure.log"; }
cmake --build --preset release --target programs || die "the build: see the lines above"
phase "build" $(($(now_ms) - t))

say "3/6 object store (pre-authenticated requests over HTTP, on loopback)"
t=$(now_ms)
model="$cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"
[ -f "$model" ] || die "the model $model is missing; ./setup.sh fetches it"
umask 077
mkdir -p "$home/store/models/SmolLM2-135M-Instruct" "$BP_RUN_DIR"
ln -sf "$model" "$home/store/models/SmolLM2-135M-Instruct/"
python3 examples/quickstart/par_store.py --root "$home/store" --namespace quickstart --port 0 \
  >"$home/par-url" 2>"$home/store.log" &
store_pid=$!
for _ in $(seq 100); do [ -s "$home/par-url" ] && break; sleep 0.05; done
[ -s "$home/par-url" ] || die "the object store did not start: see $home/store.log"
# The store prints the PAR of the namespace's bucket "models"; it is a bearer token, so it goes by file only.
python3 - "$home/par-url" examples/recipes/quickstart.json "$home/recipe.json" <<'PY'
import json, sys
par = open(sys.argv[1]).readline().strip()
recipe = json.load(open(sys.argv[2]))
recipe["input_object_storage"][0]["par"] = par
json.dump(recipe, open(sys.argv[3], "w"), indent=2)
PY
echo "serving $(basename "$model") from bucket \"models\""
phase "object store" $(($(now_ms) - t))

say "4/6 deploy: 2 nodes x 2 ranks (TP=2, PP=2)"
t=$(now_ms)
started=yes
"$bin/bp" up "$home/recipe.json" --allow-private-stores || die "the deployment; \`$bin/bp logs quickstart\` tells more"
phase "deploy" $(($(now_ms) - t))

say "5/6 ask: $question"
t=$(now_ms)
endpoint=$("$bin/bp" show quickstart --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["endpoint"])')
python3 examples/quickstart/ask.py "$endpoint" "$question" "$home/first-token-ms" || die "no answer from $endpoint"
phase "answer" $(($(now_ms) - t))

say "stages of the deployment"
"$bin/bp" show quickstart || true

if [ "$keep" = no ]; then
  say "6/6 stop"
  t=$(now_ms)
  "$bin/bp" stop quickstart || die "stopping; \`$bin/bp show quickstart\` names what is left"
  "$bin/bp" daemon stop
  started=no
  phase "stop" $(($(now_ms) - t))
fi

say "times"
for i in "${!phase_names[@]}"; do printf '  %-14s %8.2f s\n' "${phase_names[$i]}" "$(echo "${phase_ms[$i]}" | awk '{print $1/1000}')"; done
printf '  %-14s %8.3f s\n' "first token" "$(awk '{print $1/1000}' "$home/first-token-ms")"
if [ "$keep" = yes ]; then
  cat <<TXT

Still running: the daemon, the deployment "quickstart" at $endpoint, the object store (pid $store_pid).
  export BP_STATE_DIR=$BP_STATE_DIR BP_RUN_DIR=$BP_RUN_DIR
  $bin/bp generate quickstart "Tell me a story"
Stop them:
  $bin/bp stop quickstart && $bin/bp daemon stop; kill $store_pid
TXT
fi
