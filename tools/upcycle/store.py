"""Finished parts of a conversion, kept in the cache until the output is whole.

A folder is named after everything that decides its contents: settings, model,
texts and this tool's own source. An interrupted run goes on where it stopped,
and a changed one starts afresh.
"""
import hashlib
import json
import shutil

import numpy as np

import moe


def key(*parts):
    """A name for these plain values. The tool's own source is one of the settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class Store:
    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, name):
        return self.folder / f"{name}.npz"

    def load(self, name):
        """The arrays kept under this name, or None."""
        if not self._path(name).exists():
            return None
        with np.load(self._path(name)) as z:
            return {n: z[n] for n in z.files}

    def save(self, name, **arrays):
        partial = self.folder / f"{name}.tmp"
        with open(partial, "wb") as f:
            np.savez(f, **arrays)
        partial.rename(self._path(name))

    def get(self, i):
        kept = self.load(f"layer-{i:03}")
        return kept and moe.MoeLayer(**kept)

    def put(self, i, layer):
        self.save(f"layer-{i:03}", **vars(layer))

    def drop(self):
        shutil.rmtree(self.folder)
