#!/usr/bin/env python3
"""What checkpoints of tests/golden/data answer while some of their experts are on no worker: NAME/masked.safetensors.

By definition a layer then behaves as one that never had the missing experts. A flat gate: they are taken out of the tensors,
those that are left are numbered anew, the gate loses their rows, and oracle.py runs what remains. Nothing is masked. A tree or a
gate of two stages cannot lose single rows and stay one; there the oracle is told, level by level, what nobody may choose (a branch
of a tree when all under it is missing), and pairs that are left without a choice are taken out of its answer.

Run after make_checkpoints.py: make_masked.py [--data DIR] [NAME ...]. Deterministic.
"""
import argparse
import re
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import expert_oracle
import make_checkpoints
import oracle
import router_oracle

TOKENS = 23
# name -> model layer -> the experts that are missing there. In "cadre_moe_fusion_rows" and "cadre_moe_raw" one of five is left where two are wanted.
CASES = {
    "mixtral": {0: (1, 6), 1: (0, 2, 3, 7)},
    "qwen2_moe": {0: (4,), 2: (1, 5)},
    "cadre_moe_score": {0: (0, 1, 2), 1: (6,)},
    "cadre_moe_one": {1: (3,), 2: (0, 7)},
    "cadre_moe_rows": {0: (2,), 1: (0, 5)},
    "cadre_moe_fusion": {1: (0, 3)},
    "cadre_moe_fusion_rows": {0: (4,), 1: (0, 1, 2, 4)},
    "router_two_stage": {0: (0, 3, 10), 1: (5, 15, 16)},       # a global, domains, locals; all locals of a domain
    "router_two_stage_two": {0: (1, 6), 1: (8,)},
    "router_tree_beam": {0: (0, 1, 2, 3, 4, 5, 9), 1: (3, 6, 7, 8)},   # a branch, a node, leaves
    "router_tree_exact": {0: (17, 2, 3), 1: (6, 7, 8, 9, 10)},
    "cadre_moe_raw": {0: (0, 1, 3, 4), 1: (2, 3)},
    "router_segment": {0: (2, 3, 4), 1: (1, 8, 10)},           # a global; both domains of another; locals
    "router_segment_tree": {0: (0, 1, 2, 3, 6), 1: (5, 8, 9)},
}
NEVER = -1e30                   # a logit that leaves nothing of a probability


def without(directory, missing, dtype=torch.float32):
    """The model as if it never had these experts."""
    m = oracle.Model(directory, dtype)
    for layer, gone in missing.items():
        block = f"model.layers.{layer}.{m.block}"
        kept = [e for e in range(m.w[block + "gate.weight"].shape[0]) if e not in gone]
        for name in [n for n in m.w if n.startswith(block)]:
            part = name[len(block):]
            if part in ("gate.weight", "gate.bias", "gate.e_score_correction_bias"):
                m.w[name] = m.w[name][kept]
            expert = re.fullmatch(r"experts\.(\d+)\.(.*)", part)
            if expert:
                tensor, old = m.w.pop(name), int(expert[1])
                if old in kept:
                    m.w[f"{block}experts.{kept.index(old)}.{expert[2]} "] = tensor  # the blank tells new names from old ones
        for name in [n for n in m.w if n.endswith(" ")]:
            m.w[name[:-1]] = m.w.pop(name)
    return m


def told(missing):
    """Routers of several levels that know what is missing. Returns a function that makes them forget it."""
    real = {name: getattr(router_oracle, name) for name in ("gate", "tree", "two_stage")}
    now = {"gone": ()}

    def gate(router, w, prefix, layer, *rest):
        now["gone"] = missing.get(layer, ())
        return real["gate"](router, w, prefix, layer, *rest)

    def here(pairs):
        return [(e, v) for e, v in pairs if e not in now["gone"]]

    def tree(router, logits, *rest):
        b = router["branch"]
        under = (b[1] * b[2], b[2], 1)

        def left(level, node):
            first = (node * b[level] if level else 0) * under[level]
            gone = [all(first + i * under[level] + j in now["gone"] for j in range(under[level])) for i in range(b[level])]
            return np.where(gone, NEVER, logits(level, node))

        return here(real["tree"](router, left, *rest))

    def two_stage(router, zg, zd, zl, *rest):
        first, parts = 0, []
        for z in (zg, zd, zl):
            parts.append(None if z is None else np.where([first + i in now["gone"] for i in range(len(z))], NEVER, z))
            first += 0 if z is None else len(z)
        return here(real["two_stage"](router, *parts, *rest))

    for name, f in (("gate", gate), ("tree", tree), ("two_stage", two_stage)):
        setattr(router_oracle, name, f)
    return lambda: [setattr(router_oracle, name, f) for name, f in real.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=make_checkpoints.DATA)
    parser.add_argument("names", nargs="*", help="of the cases to make; none: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for index, (name, missing) in enumerate(CASES.items()):
        if args.names and name not in args.names:
            continue
        directory = args.data / name
        levels = name.startswith("router_")
        model = (lambda dtype: oracle.Model(directory, dtype)) if levels else lambda dtype: without(directory, missing, dtype)
        whole, single, exact = oracle.Model(directory), model(torch.float32), model(torch.float64)
        forget = told(missing) if levels else lambda: None
        rng = np.random.default_rng([index, 777])
        while True:
            ids = rng.integers(0, single.config["vocab_size"], TOKENS).tolist()
            trace = {"experts": [], "gap": []}
            got, want = oracle.forward(single, ids), oracle.forward(exact, ids, trace=trace)
            unit, top = got.std().item(), want.topk(2, -1).values
            clear = (top[:, 0] - top[:, 1]).min() > 20 * make_checkpoints.TOLERANCE * unit
            if clear and all(g.min() > 5e-4 for g in trace["gap"]):
                break
        forget()
        error = (got - want).abs().max().item() / unit
        moved = (got - oracle.forward(whole, ids)).abs().max().item() / unit
        assert error < make_checkpoints.TOLERANCE / 4 and moved > make_checkpoints.VISIBLE, (name, error, moved)
        pairs = [(layer, e) for layer, gone in missing.items() for e in gone]
        save_file({"missing": torch.tensor(pairs, dtype=torch.int32), "ids": torch.tensor(ids, dtype=torch.int32),
                   "logits": got.contiguous()}, directory / "masked.safetensors")
        (directory / "masked.safetensors").chmod(0o644)
        if single.router.get("confidence"):
            heads(directory)
        print(f"{name}: {len(pairs)} missing, float32 error {error:.1e}, logits moved by {moved:.2f}")


def heads(directory):
    """What a router's confidence heads say, for prompt 0 of logits.safetensors: NAME/heads.safetensors, confidence [L,T]."""
    ids = load_file(directory / "logits.safetensors")["ids.0"]
    expert_oracle.heard = []
    oracle.forward(oracle.Model(directory, torch.float64), ids.tolist())
    said = torch.stack(expert_oracle.heard).float()
    save_file({"ids": ids, "confidence": said}, directory / "heads.safetensors")
    (directory / "heads.safetensors").chmod(0o644)
    print(f"{directory.name}: confidence {said.min():.3f} to {said.max():.3f}")


if __name__ == "__main__":
    main()
