#!/usr/bin/env python3
"""Checks what a compiler does not: arrows between folders, foreign headers, banned calls, sizes, words that do not belong.

usage: lint.py ROOT        prints one line per fault and 'N passed, N failed'; exit status 1 when there are faults
"""
import re
import subprocess
import sys
from pathlib import Path

MAX_LINES = 700
MAX_COLUMNS = 128  # docs/STYLE.md
FOREIGN = {
    "zmq.h": r"_zmq\.c$|^tests/",
    "sodium.h": r"_sodium\.c$",
    "mpi.h": r"_mpi\.[ch]$",
    "ucp/": r"_ucx\.[ch]$",
    "ucs/": r"_ucx\.c$",
    "nccl.h": r"_nccl\.(c|cu)$",
    "cuda": r"\.cu$|\.cuh$",
    "pb-c.h": r"(^|/)port\.c$|_port\.c$|^proto/|^client/|^tests/",
    "protobuf-c.h": r"^proto/",
    "jansson.h": r"^model/|^tests/",
    "pcre2.h": r"^model/|^tests/",
    "utf8proc.h": r"^model/|^tests/",
}
BANNED = {
    r"\b(strcpy|strcat|sprintf|vsprintf|gets|strtok|atoi|atol|atof)\s*\(": "unbounded or silent string call",
    r"\b(getenv|secure_getenv|setenv)\s*\(": "no switches by getenv",
    r"\b(system|popen)\s*\(": "no shell",
    r"\bassert\s*\(": "BUG for our invariants, errors for input; never assert",
    r"\btypedef\s+struct\b": "no typedef of structs",
    r"\b(TODO|FIXME|XXX|HACK)\b": "unfinished work",
}
BANNED_IN_TESTS = {r"\b(sleep|usleep|nanosleep)\s*\(": "a test must not depend on a sleep"}
SYSTEM_HEADERS = {"sched.h", "link.h", "err.h", "stat.h", "error.h", "signal.h", "time.h", "string.h", "search.h", "poll.h", "wait.h", "regex.h"}
TEXT_RULES = {
    r"/(work|farm|root|home/[a-z]+|tmp/wt)/": "a path of one machine",
    r"\b(pypi|files\.pythonhosted|deb\.debian)\.org\b": "a registry's host name",
}


def tracked(root):
    try:
        out = subprocess.run(["git", "-C", root, "ls-files", "-z", "-co", "--exclude-standard"], check=True, capture_output=True).stdout
        names = [n for n in out.decode().split("\0") if n]
    except (subprocess.CalledProcessError, FileNotFoundError):
        names = [str(p.relative_to(root)) for p in Path(root).rglob("*") if p.is_file() and ".git" not in p.parts]
    return sorted(n for n in names if (Path(root) / n).is_file() and not n.startswith("build"))


def arrows(root):
    text = (Path(root) / "docs/ARCHITECTURE.md").read_text()
    block = re.search(r"<!-- arrows -->\s*```\n(.*?)```", text, re.S)
    table = {}
    for line in block.group(1).splitlines():
        folder, _, allowed = line.partition("->")
        table[folder.strip()] = set(allowed.split())
    for folder in table:  # no cycles: every chain of arrows ends
        seen, front = set(), set(table[folder])
        while front:
            seen |= front
            front = set().union(*(table.get(f.split("/")[0], set()) for f in front)) - seen
        if folder in seen:
            raise SystemExit(f"docs/ARCHITECTURE.md: the arrows have a cycle through {folder}")
    return table


def strip_comments(text):
    def blank(m):
        return re.sub(r"[^\n]", " ", m.group(0))
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', lambda m: m.group(0) if m.group(0)[0] == '"' else blank(m), text, flags=re.S)


def check_c(name, text, table, fault):
    folder = name.split("/")[0]
    lines = text.split("\n")
    if len(lines) > MAX_LINES:
        fault(name, 1, f"{len(lines)} lines; can it be two nouns? (limit {MAX_LINES})")
    if not text.lstrip().startswith("/*") or Path(name).name not in lines[0]:
        fault(name, 1, "must open with a comment '/* NAME - purpose' ")
    if name.endswith(".h") and "#pragma once" not in text:
        fault(name, 1, "header without #pragma once")
    code = strip_comments(text)
    no_strings = re.sub(r'"(?:\\.|[^"\\\n])*"', '""', code)
    for i, (line, bare, raw) in enumerate(zip(code.split("\n"), no_strings.split("\n"), lines), 1):
        if len(raw) > MAX_COLUMNS:
            fault(name, i, f"{len(raw)} columns (limit {MAX_COLUMNS})")
        m = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if m:
            check_include(name, i, folder, m.group(1), m.group(2), table, fault)
        for rules in (BANNED, BANNED_IN_TESTS if folder == "tests" else {}):
            for pattern, why in rules.items():
                if re.search(pattern, raw if "TODO" in pattern else bare):
                    fault(name, i, f"{why}: {raw.strip()[:60]}")


def check_include(name, line, folder, kind, header, table, fault):
    for foreign, where in FOREIGN.items():
        if foreign in header and not re.search(where, name):
            fault(name, line, f"{header} may not be included here")
    if kind == '"' and "/" not in header and folder not in ("examples", "tests"):
        fault(name, line, f'"{header}" is not written from the root')
    target = header.split("/")[0]
    if kind == '"' and folder in table and target != folder:
        if target == "tests" or (target in table and not {target, header} & table[folder]):
            fault(name, line, f"{folder} may not include {target} ({header}); see the arrows in docs/ARCHITECTURE.md")


def main():
    root = sys.argv[1]
    table = arrows(root)
    faults = []
    files = tracked(root)

    def fault(name, line, why):
        faults.append(f"{name}:{line}: {why}")

    for name in files:
        path = Path(root) / name
        if path.stat().st_size > 4 << 20:
            fault(name, 1, f"{path.stat().st_size >> 20} MiB; the repository stays light")
        if Path(name).name in SYSTEM_HEADERS:
            fault(name, 1, "is called like a system header")
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if re.search(r"\.(c|h|cu|cuh)$", name):
            check_c(name, text, table, fault)
        if re.search(r"\.(c|h|cu|cuh|py|sh|md|build|txt|proto|conf)$", name) and not name.startswith("tests/lint/") and name != "LICENSE":
            for i, line in enumerate(text.split("\n"), 1):
                for pattern, why in TEXT_RULES.items():
                    if re.search(pattern, line):
                        fault(name, i, f"{why}: {line.strip()[:80]}")
    for f in faults:
        print(f)
    print(f"{len(files) - len({f.split(':')[0] for f in faults})} passed, {len({f.split(':')[0] for f in faults})} failed")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
