#!/usr/bin/env python3
"""What an application sees of an installed Cadre: header, pkg-config, shared and static library, and no other symbol than ours.

usage: test_install.py BUILD SOURCE
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BUILD, SOURCE = sys.argv[1:3]
EXAMPLE = f"{SOURCE}/examples/hello.c"


def run(*args, **more):
    r = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=100, **more)
    if r.returncode:
        raise SystemExit(f"{' '.join(map(str, args))}: {r.returncode}\n{r.stdout}{r.stderr}")
    return r.stdout


def sanitizer_flags():
    """An application links with what the library was built with."""
    for option in json.loads(run("meson", "introspect", "--buildoptions", BUILD)):
        if option["name"] == "b_sanitize" and option["value"] != "none":
            return [f"-fsanitize={option['value']}"]
    return []


def main():
    passed = []
    compiler = shutil.which("cc")
    root = Path(tempfile.mkdtemp())
    try:
        run("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", root)
        pc = next(root.rglob("cadre.pc"))
        prefix = root / "usr/local" if (root / "usr/local").exists() else pc.parents[2]
        env = {**os.environ, "PKG_CONFIG_PATH": str(pc.parent), "PKG_CONFIG_SYSROOT_DIR": ""}

        def flags(*what):
            real = f"--define-variable=prefix={prefix}"
            return run("pkg-config", real, *what, "cadre", env=env).split()

        for name in ("cadre", "cadre-coordinator", "cadre-worker"):
            run(prefix / "bin" / name, "--version", env={**env, "LD_LIBRARY_PATH": str(pc.parents[1])})
        passed.append("programs")
        symbols = {line.split()[-1] for line in run("nm", "-D", "--defined-only", pc.parents[1] / "libcadre.so").splitlines()}
        strangers = {s for s in symbols if not s.startswith("cadre_") and not s.startswith("__")}
        if strangers:
            raise SystemExit(f"libcadre.so exports {sorted(strangers)}")
        passed.append("symbols")
        extra = sanitizer_flags()
        run(compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", EXAMPLE, "-o", root / "shared", *extra, *flags("--cflags", "--libs"))
        passed.append("shared")
        library = pc.parents[1] / "libcadre.a"
        # Only Cadre is linked statically: Debian's libzmq.pc names libraries for --static that no package has.
        others = run("pkg-config", "--libs", "libzmq", "libprotobuf-c").split()
        run(compiler, EXAMPLE, "-o", root / "static", *extra, *flags("--cflags"), library, *others, "-lm", "-pthread")
        if "libcadre" in run("ldd", root / "static"):
            raise SystemExit("the static example needs the shared library")
        passed.append("static")
        if shutil.which("c++"):
            run("c++", "-std=c++11", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-pedantic", *flags("--cflags"), "-include", "cadre.h",
                "-x", "c++", "/dev/null")
            passed.append("c++")
    finally:
        shutil.rmtree(root)
    print(f"{len(passed)} passed ({', '.join(passed)}), 0 failed")


if __name__ == "__main__":
    main()
