#!/usr/bin/env bash
# quickstart.sh - from a fresh Debian 12 to an answer: installs, builds, makes the default model, serves it with four workers,
# asks it something, shows what happened, and leaves nothing running.
set -euo pipefail
# shellcheck source=deploy/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'TEXT'
Usage: deploy/quickstart.sh [options]

  --prompt TEXT      what to ask             ["What is a mixture of experts? Answer in two sentences."]
  --max-tokens N     length of the answer    [96]
  --workers N        worker processes        [4]
  --keep             stay up until Ctrl-C
  --help             show this text

The first run installs Debian packages (needs root), builds into build/, and makes the default model under
$XDG_CACHE_HOME/cadre (or ~/.cache/cadre): a few minutes. Later runs take seconds.
TEXT
}

prompt="What is a mixture of experts? Answer in two sentences." max_tokens=96 workers=4 keep=""
while [ $# -gt 0 ]; do
  case $1 in
    --prompt) prompt=${2?--prompt needs a value}; shift 2 ;;
    --max-tokens) max_tokens=${2?--max-tokens needs a value}; shift 2 ;;
    --workers) workers=${2?--workers needs a value}; shift 2 ;;
    --keep) keep=1; shift ;;
    --help) usage; exit 0 ;;
    *) usage >&2; fail "unknown option '$1'" ;;
  esac
done

install_packages
say "Building ..."
build "$ROOT/build"
model=$(make_model smollm2-moe)

cadre=$ROOT/build/cli/cadre
log=$(mktemp)
serve_pid=
stop() {
  if [ -n "$serve_pid" ] && kill -0 "$serve_pid" 2>/dev/null; then
    kill -TERM "$serve_pid"
    wait "$serve_pid" || true
  fi
  rm -f "$log"
}
trap stop EXIT
trap 'exit 130' INT TERM

# A port of our own choosing may be taken; ask the kernel for a free one.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
listen=tcp://127.0.0.1:$port
say "Serving $model with $workers workers (mpirun) at $listen ..."
set -m # a process group of its own: Ctrl-C reaches it through us alone, once
"$cadre" serve "$model" --workers "$workers" --fabric mpi --listen "$listen" >"$log" 2>&1 &
serve_pid=$!
set +m
until "$cadre" status --connect "$listen" --wait 2 -q 2>/dev/null; do
  kill -0 "$serve_pid" 2>/dev/null || { cat "$log" >&2; serve_pid=; fail "cadre serve ended before it was ready"; }
done
cat "$log" >&2

say "> $prompt"
"$cadre" generate --connect "$listen" --chat --prompt "$prompt" --max-tokens "$max_tokens" --verbose
echo
"$cadre" experts --connect "$listen"

if [ -n "$keep" ]; then
  say "Still serving at $listen; Ctrl-C stops it. Try: build/cli/cadre chat --connect $listen"
  trap 'told=1; kill -TERM "$serve_pid" 2>/dev/null || true' INT TERM # a second one makes serve stop at once
  told=1
  while [ -n "$told" ]; do # a signal ends the wait, not serve
    told=
    wait "$serve_pid" && status=0 || status=$?
  done
  serve_pid=
  [ "$status" -eq 0 ] || fail "cadre serve ended with status $status; its log: $(cat "$log")"
else
  kill -TERM "$serve_pid"
  wait "$serve_pid" || fail "cadre serve did not end in order; its log: $(cat "$log")"
  serve_pid=
fi
