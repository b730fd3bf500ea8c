"""cases.py - runs the cases of a test program and reports them as TAP: one line each, with what went wrong below it.

usage of every test program: test_X.py --build DIR --data DIR [--exact DIR] [--sparse DIR] [--sanitize WHAT] [--soak]
                                   [CASE ...]
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from cluster import Failed, Process, Programs

CASES = []


class Skipped(Exception):
    """Why a case cannot run here."""


def case(function):
    """Marks a function of one argument (Programs) as a case."""
    CASES.append(function)
    return function


def skip(why):
    raise Skipped(why)


def note(text, stream=None):
    """A line in the report that is no result."""
    for line in str(text).splitlines():
        print(f"# {line}", file=stream, flush=True)


def complain(text):
    """What a failure says goes to stderr: of a TAP program's stdout `meson test --print-errorlogs` shows nothing."""
    note(text, sys.stderr)


SHARED = "OMPI_MCA_btl_vader_backing_directory"  # where Open MPI keeps the memory that ranks share


@contextlib.contextmanager
def own_folders():
    """Everything temporary goes into folders of ours, which are gone at the end: also what a killed mpirun cannot remove."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="cadre-multi-", dir=memory) as shared:
        with tempfile.TemporaryDirectory(prefix="cadre-multi-") as folder:
            os.environ["TMPDIR"] = tempfile.tempdir = folder
            os.environ[SHARED] = shared
            try:
                yield
            finally:
                tempfile.tempdir = None
                del os.environ["TMPDIR"], os.environ[SHARED]


def leftovers():
    """Files that a cluster left, by name: those of Open MPI begin with ompi. or vader_segment."""
    return [p for folder in (tempfile.gettempdir(), os.environ[SHARED]) for p in Path(folder).iterdir()]


def check_left():
    """A case leaves no file and no process. An mpirun that was killed cannot remove its files: those are allowed."""
    processes = [" ".join(p.argv)[:100] for p in Process.open]
    close_all()
    left = [p for p in leftovers() if not p.name.startswith(("ompi.", "vader_segment."))]
    for path in leftovers():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if left or processes:
        raise Failed(f"left behind: {[p.name for p in left] + processes}")


def close_all():
    for process in list(Process.open):
        process.close()


def end(number, _):
    """As an exception, so that whatever was started is closed on the way out; once is enough."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def run_case(number, function, programs):
    started = time.monotonic()
    name = function.__name__.replace("_", " ")
    try:
        function(programs)
        check_left()
    except Skipped as why:
        print(f"ok {number} - {name} # SKIP {why}", flush=True)
        return True
    except Exception as e:
        print(f"not ok {number} - {name}", flush=True)
        complain(e if isinstance(e, Failed) else traceback.format_exc())
        if isinstance(e, Failed):
            where = traceback.extract_tb(e.__traceback__)
            complain("at " + " < ".join(f"{f.name}:{f.lineno}" for f in reversed(where) if "cluster.py" not in f.filename))
        complain(getattr(e, "serve", ""))
        return False
    print(f"ok {number} - {name} ({time.monotonic() - started:.1f} s)", flush=True)
    return True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--exact", default="")
    parser.add_argument("--sparse", default="")
    parser.add_argument("--sanitize", default="none", help="the build's b_sanitize")
    parser.add_argument("--soak", action="store_true", help="full counts instead of reduced ones")
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    # What uninstrumented libraries do among themselves cannot be judged.
    os.environ.setdefault("TSAN_OPTIONS", "ignore_noninstrumented_modules=1")
    programs = Programs(args.build, args.data, args.exact, args.sparse, args.sanitize != "none", args.soak)
    chosen = [f for f in CASES if not args.cases or f.__name__ in args.cases]
    if len(chosen) < len(args.cases):
        raise SystemExit(f"no such case among: {' '.join(f.__name__ for f in CASES)}")
    signal.signal(signal.SIGTERM, end)
    with own_folders():
        try:
            print(f"1..{len(chosen)}", flush=True)
            good = [run_case(i, f, programs) for i, f in enumerate(chosen, 1)]
        finally:
            close_all()
    sys.exit(0 if all(good) else 1)
