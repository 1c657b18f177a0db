#!/usr/bin/env bash
# Two ranks in two network namespaces joined by a veth pair, as on two hosts, against the same two in one node:
# PP=2 and TP=2. Needs root. usage: two_hosts.sh BENCH_TP MODEL [STEPS] [PROMPT]
set -euo pipefail
bench=$1 model=$2 steps=${3:-100} prompt=${4:-512}
a=bp-bench-$$-a b=bp-bench-$$-b
trap 'ip netns del $a 2>/dev/null || true; ip netns del $b 2>/dev/null || true' EXIT
ip netns add "$a"
ip netns add "$b"
ip link add veth0 netns "$a" type veth peer name veth0 netns "$b"
ip -n "$a" addr add 10.77.0.1/24 dev veth0
ip -n "$b" addr add 10.77.0.2/24 dev veth0
for ns in "$a" "$b"; do ip -n "$ns" link set lo up; ip -n "$ns" link set veth0 up; done
for layout in pp tp; do
  echo "$layout=2, one node against two: $("$bench" "$model" "$steps" "$prompt" $layout "$a" "$b")"
done
