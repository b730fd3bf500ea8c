"""Greedy text by the dense numpy reference: the oracle for the exact model.

Usage: reference.py GGUF --ids 1,2,3 [--count 64]     prints token ids
       reference.py GGUF --golden FILE                writes the committed fixture

Arithmetic is float32 on the bf16-rounded dense weights, the same numbers that
`upcycle --exact` stores. A serving engine sums in another order, so a fixture is
only of use where the best token leads the second by more than rounding: each
entry carries its smallest lead ("margin", in logits) and tiny ones are refused.
"""
import argparse
import json
import sys
from pathlib import Path

import dense
import gguf_model
from tokenizer import Tokenizer

COUNT, SMALLEST_MARGIN = 64, 5e-3
PROMPTS = [
    "What is gravity?",
    "Write a Python function that adds two numbers.",
    "Explain how a bicycle stays upright while it is moving.",
    "Give me three tips for writing a clear letter to a friend.",
]


def golden(model, path):
    tokenizer, entries = Tokenizer(model.vocab), []
    for prompt in PROMPTS:
        prompt_ids = tokenizer.encode(tokenizer.chat(prompt))
        ids, margin = dense.greedy(model, prompt_ids, COUNT)
        print(f"{margin:.5f} {prompt!r} -> {tokenizer.decode(ids)!r}", file=sys.stderr)
        if margin < SMALLEST_MARGIN or model.vocab["eos"] in ids:
            raise SystemExit(f"margin {margin} of {prompt!r} is too small, or its text ends early: choose another prompt")
        entries.append({"prompt_ids": prompt_ids, "ids": ids, "margin": round(margin, 6)})
    lines = ",\n ".join(json.dumps(e) for e in entries)
    path.write_text(f"[{lines}]\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("gguf", type=Path)
    what = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--ids", help="prompt token ids, separated by commas")
    what.add_argument("--golden", type=Path, metavar="FILE")
    p.add_argument("--count", type=int, default=COUNT)
    a = p.parse_args()
    model = gguf_model.load(a.gguf)
    if a.golden:
        golden(model, a.golden)
    else:
        ids, margin = dense.greedy(model, [int(i) for i in a.ids.split(",")], a.count)
        print(",".join(map(str, ids)))
        print(f"smallest margin {margin:.6f}", file=sys.stderr)


if __name__ == "__main__":
    main()
