#!/usr/bin/env bash
# test.sh - builds and runs every suite that needs no GPU: unit, fuzz, golden, sim, multi, lint; again under ASan+UBSan and TSan.
set -euo pipefail
# shellcheck source=deploy/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'TEXT'
Usage: deploy/test.sh [--soak] [--quick]

  --soak     full seed counts and longer fuzzing (two hours) instead of the reduced ones (20 minutes)
  --quick    only the ordinary build, no sanitizers
  --help     show this text

Ends with a line 'N passed, N failed, N skipped' and exit status 0 when nothing failed.
TEXT
}

soak="" quick=""
while [ $# -gt 0 ]; do
  case $1 in
    --soak) soak=1; shift ;;
    --quick) quick=1; shift ;;
    --help) usage; exit 0 ;;
    *) usage >&2; fail "unknown option '$1'" ;;
  esac
done
export TSAN_OPTIONS=ignore_noninstrumented_modules=1 # libzmq and libmpi are not built with it
fuzz_seconds=2 soak_option=false
if [ -n "$soak" ]; then
  fuzz_seconds=15
  soak_option=true
fi

PACKAGES+=(slurm-wlm munge iproute2) # a Slurm of its own, in network namespaces
install_packages
options=(-Dtests=enabled "-Dfuzz_seconds=$fuzz_seconds" "-Dsoak=$soak_option")
logs=()
failed_builds=0

# suite DIR MULTIPLIER [meson test arguments]: runs, shows what failed, remembers the log for the final count.
suite() {
  local dir=$1 multiplier=$2
  shift 2
  say "Testing in $(basename "$dir"): $*"
  rm -f "$dir/meson-logs/testlog.json" # what an earlier run left must not be counted for this one
  meson test -C "$dir" --no-rebuild --timeout-multiplier "$multiplier" --print-errorlogs "$@" 2>&1 | grep -vE '^(ninja: |$|Full log)' || true
  cp "$dir/meson-logs/testlog.json" "$dir/meson-logs/counted-${#logs[@]}.json" 2>/dev/null || failed_builds=$((failed_builds + 1))
  logs+=("$dir/meson-logs/counted-${#logs[@]}.json")
}

# configure DIR [options]: a build directory whose options follow this run's.
configure() {
  local dir=$1
  shift
  [ -f "$dir/build.ninja" ] && meson configure "$dir" "${options[@]}" >/dev/null
  build "$dir" "${options[@]}" "$@"
}

say "Making the models the tests use ..."
exact=$(make_model smollm2-exact --exact)
sparse=$(make_model smollm2-moe)
options+=("-Dmodel_exact=$exact" "-Dmodel_sparse=$sparse")
"$CACHE/venv/bin/python" -B "$ROOT/tools/upcycle/test_upcycle.py" -b || failed_builds=$((failed_builds + 1))

say "Building ..."
configure "$ROOT/build"
suite "$ROOT/build" 1
if [ -z "$quick" ]; then
  say "Building with AddressSanitizer and UndefinedBehaviorSanitizer ..."
  configure "$ROOT/build-asan" -Db_sanitize=address,undefined -Dbuildtype=debug -Doptimization=1 -Db_lundef=false
  suite "$ROOT/build-asan" 4 --suite unit --suite fuzz --suite golden --suite sim ${soak:+--suite multi}
  say "Building with ThreadSanitizer ..."
  configure "$ROOT/build-tsan" -Db_sanitize=thread -Dbuildtype=debug -Doptimization=1 -Db_lundef=false
  suite "$ROOT/build-tsan" 6 --suite unit --suite sim
fi

python3 - "$failed_builds" "${logs[@]}" <<'PY'
import json, re, sys
passed = failed = skipped = 0
failed += int(sys.argv[1])
for name in sys.argv[2:]:
    try:
        rows = [json.loads(line) for line in open(name)]
    except OSError:
        continue
    for row in rows:
        if row["result"] in ("OK", "EXPECTEDFAIL"): passed += 1
        elif row["result"] == "SKIP": skipped += 1
        else:
            failed += 1
            print(f"FAILED: {row['name']} ({row['result']})")
            bad = [line for line in row.get("stdout", "").splitlines() if re.match("not ok|---|.*:[FE]:", line)]
            for line in bad[:5] + row.get("stderr", "").splitlines()[:5]: print(f"  {line[:300]}")
print(f"{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(1 if failed or not passed else 0)
PY
