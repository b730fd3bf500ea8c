"""SHA256SUMS: the checksum list that makes a model directory complete.

Kept free of heavy imports, so that a finished directory is recognised in a
fraction of a second. The format is that of sha256sum(1).
"""
import hashlib
import json
from pathlib import Path

MANIFEST = "SHA256SUMS"
REPORT = "upcycle-report.json"
BLOCK = 1 << 20
HERE = Path(__file__).parent


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def tool(texts, here=HERE):
    """A name for this tool's own source and, with texts, for what it calibrates on and measures with.

    What it makes depends on these as much as on the settings. Tests do not count."""
    digest = hashlib.sha256()
    files = [p for p in here.glob("*.py") if not p.name.startswith("test_")]
    for path in sorted([*files, *(here.glob("text/*.txt") if texts else [])]):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(here)} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def text(folder, names):
    """The manifest of the named files."""
    return "".join(f"{sha256_of(folder / n)}  {n}\n" for n in names)


def problem(folder):
    """None if the directory is whole, else what is wrong with it."""
    try:
        lines = (folder / MANIFEST).read_text().splitlines()
    except FileNotFoundError:
        return f"{folder / MANIFEST} is missing"
    for line in lines:
        want, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if sha256_of(path) != want:
            return f"{path} does not match its checksum"
    return None if lines else f"{folder / MANIFEST} is empty"


def made_with(folder):
    """The settings the directory was made with, or None."""
    try:
        return json.loads((folder / REPORT).read_text()).get("settings")
    except (FileNotFoundError, ValueError):
        return None
