#!/usr/bin/env python3
"""Both readings of what the authors' code and transformers understand differently: NAME/reading_KEY.json and .safetensors.

The json says what is changed in NAME/config.json for both readings, so that they differ at all, and the key that selects the
other one. The tensors are `ids` and the logits `authors` and `other`. Those of the reading that transformers has come from
transformers, with oracle.py agreeing; those of the one that it has not come from oracle.py, or from transformers with a
configuration that says the same in other words.

Run after make_checkpoints.py: make_readings.py [--data DIR]. Deterministic.
"""
import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import make_checkpoints
import oracle

TOKENS = 17
AUTHORS, OTHER = "authors", "other"


def fill_zero(m, reading):
    """DeepSeek-V3's gate: what experts outside the chosen groups compete with. transformers took 0 up to version 4."""
    m.router["groups"]["fill"] = "zero" if reading == OTHER else "-inf"


def scale_always(m, reading):
    """DeepSeek-V2's gate: either normalised or scaled; transformers scales, whatever norm_topk_prob says."""
    scale = m.config["routed_scaling_factor"]
    m.router |= {"norm": "none", "scale": scale} if reading == OTHER else {"norm": "sum", "norm_eps": 1e-20, "scale": 1.0}


def yarn_always(m, reading):
    """DeepSeek-V3's own code stretches only contexts that are longer than the original one."""
    if reading == AUTHORS:
        m.config["rope_scaling"] = None


# name, key, its value for the other reading, changes for both, how the oracle reads, {reading: changes that make transformers
# read it so}
CASES = [
    ("glm4_moe", "group_fill", "zero", {}, fill_zero, {AUTHORS: {}}),
    ("deepseek_v3", "group_fill", "zero", {}, fill_zero, {AUTHORS: {}}),
    ("deepseek_v2", "scale_always", True, {"norm_topk_prob": True}, scale_always, {OTHER: {}}),
    ("deepseek_v2_groups", "scale_always", True, {"norm_topk_prob": True}, scale_always, {OTHER: {}}),
    ("deepseek_v3", "yarn_always", True, {"max_position_embeddings": 4096}, yarn_always,
     {AUTHORS: {"rope_scaling": None}, OTHER: {}}),
]


def changed(source, changes, scratch):
    """A directory with the weights of another and its configuration changed."""
    directory = Path(tempfile.mkdtemp(dir=scratch))
    c = json.loads((source / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps(c))
    (directory / "model.safetensors").symlink_to((source / "model.safetensors").resolve())
    return directory


def read(directory, recipe, reading, ids, dtype, trace=None):
    m = oracle.Model(directory, dtype)
    recipe(m, reading)
    return oracle.forward(m, ids, trace=trace)


def make(index, name, key, value, both, recipe, known, data, scratch):
    plain = changed(data / name, both, scratch)
    vocab = json.loads((plain / "config.json").read_text())["vocab_size"]
    rng = np.random.default_rng([index, 888])
    while True:
        ids = rng.integers(0, vocab, TOKENS).tolist()
        traces = {r: {"experts": [], "gap": []} for r in (AUTHORS, OTHER)}
        exact = {r: read(plain, recipe, r, ids, torch.float64, traces[r]) for r in traces}
        # Two experts at the zero that fills excluded groups are an exact tie (0 / 0), which goes to the lower id everywhere.
        if all(g.nan_to_num(1).min() > 5e-4 for t in traces.values() for g in t["gap"]):
            break
    out, worst = {"ids": torch.tensor(ids, dtype=torch.int32)}, 0.0
    for r in (AUTHORS, OTHER):
        single = read(plain, recipe, r, ids, torch.float32)
        got = single
        if r in known:
            model = make_checkpoints.load_reference(changed(data / name, both | known[r], scratch))
            got = make_checkpoints.reference_logits(model, ids)
        unit = got.std().item()
        assert unit >= 1.0, (name, key, unit)
        worst = max(worst, *((got - x).abs().max().item() / unit for x in (single, exact[r])))
        out[r] = got.contiguous()
    moved = (out[AUTHORS] - out[OTHER]).abs().max().item() / out[AUTHORS].std().item()
    assert worst < make_checkpoints.TOLERANCE / 4 and moved > make_checkpoints.VISIBLE, (name, key, worst, moved)
    target = data / name / f"reading_{key}"
    save_file(out, target.with_suffix(".safetensors"))
    target.with_suffix(".json").write_text(json.dumps({"both": both, "other": {key: value}}, indent=2) + "\n")
    target.with_suffix(".safetensors").chmod(0o644)
    print(f"{name} {key}: error {worst:.1e}, the readings are {moved:.2f} apart; transformers has {', '.join(known)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=make_checkpoints.DATA)
    args = parser.parse_args()
    torch.set_num_threads(1)
    make_checkpoints.transformers.logging.set_verbosity_error()
    make_checkpoints.transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        for index, case in enumerate(CASES):
            make(index, *case, args.data, scratch)


if __name__ == "__main__":
    main()
