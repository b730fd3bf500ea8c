#!/usr/bin/env python3
"""A lint that cannot fail is worth nothing: each rule is broken once, in a copy of a tiny tree, and must be noticed."""
import subprocess
import sys
import tempfile
from pathlib import Path

LINT = Path(__file__).with_name("lint.py")
ARCHITECTURE = "<!-- arrows -->\n```\nbase ->\nproto -> base\nworker -> base proto\n```\n"
GOOD = {"docs/ARCHITECTURE.md": ARCHITECTURE, "base/a.c": '/* a.c - fine */\n#include "base/a.h"\n', "base/a.h": "/* a.h - fine */\n#pragma once\n"}
BROKEN = {
    "arrow up": ("base/b.c", '/* b.c - x */\n#include "worker/w.h"\n', "may not include worker"),
    "foreign header": ("proto/bus.c", "/* bus.c - x */\n#include <zmq.h>\n", "zmq.h may not be included"),
    "protobuf outside a port": ("worker/engine.c", '/* engine.c - x */\n#include "proto/control.pb-c.h"\n', "pb-c.h may not"),
    "banned call": ("base/b.c", "/* b.c - x */\nvoid f(char *d, char *s) { strcpy(d, s); }\n", "string call"),
    "getenv": ("base/b.c", '/* b.c - x */\nchar *f(void) { return getenv("X"); }\n', "getenv"),
    "assert": ("base/b.c", "/* b.c - x */\nvoid f(int x) { assert(x); }\n", "never assert"),
    "sleep in a test": ("tests/t.c", "/* t.c - x */\nvoid f(void) { usleep(1); }\n", "sleep"),
    "typedef struct": ("base/b.h", "/* b.h - x */\n#pragma once\ntypedef struct x y;\n", "typedef"),
    "long file": ("base/b.c", "/* b.c - x */\n" + "int x;\n" * 900, "two nouns"),
    "long line": ("base/b.c", "/* b.c - x */\n" + "int " + "x" * 124 + ";\n", "129 columns (limit 128)"),
    "no opening comment": ("base/b.c", "int x;\n", "must open"),
    "system header name": ("base/sched.h", "/* sched.h - x */\n#pragma once\n", "system header"),
    "machine path": ("base/b.c", "/* b.c - see /root/x */\n", "path of one machine"),
    "unfinished": ("base/b.c", "/* b.c - x */\n/* TODO */\n", "unfinished"),
    "cycle": ("docs/ARCHITECTURE.md", ARCHITECTURE.replace("base ->", "base -> worker"), "cycle"),
}


def run(tree):
    with tempfile.TemporaryDirectory() as root:
        for name, text in tree.items():
            path = Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        r = subprocess.run([sys.executable, str(LINT), root], capture_output=True, text=True)
        return r.returncode, r.stdout + r.stderr


def main():
    failed = 0
    code, out = run(GOOD)
    if code:
        print(f"a clean tree is refused: {out}")
        failed += 1
    for what, (name, text, want) in BROKEN.items():
        code, out = run({**GOOD, name: text})
        if code == 0 or want not in out:
            print(f"not noticed: {what}: {out}")
            failed += 1
    print(f"{len(BROKEN) + 1 - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
