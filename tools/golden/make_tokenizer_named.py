#!/usr/bin/env python3
"""Makes tests/fixtures/tokenizer_named.jsonl: what transformers' AutoTokenizer reads from a small tokenizer.json with other files beside it
that name tokens, old and new, in all the ways there are; and with add_bos_token and add_eos_token against its post-processor.

A line: the files of a folder, then for each text the ids and what they decode to, without and with skipping special tokens.
Run: make_tokenizer_named.py [--out FILE]
"""
import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
from transformers import AutoTokenizer, logging

OUT = Path(__file__).resolve().parents[2] / "tests/fixtures/tokenizer_named.jsonl"
TEXTS = ["a <new> b  <end>  the", "x the <im> the<start> <pad>b"]
WORDS = ["<unk>", "a", "b", "x", "the"]
ADDED = ["<start>", "<end>", "<pad>"]
N = len(WORDS) + len(ADDED)
NAMES = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<start>", "eos_token": "<end>"}


def token(text, **flags):
    return {"content": text, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False} | flags


def base(around=0, **flags):
    """around: 1 puts <start> before a text, 2 <end> behind it too."""
    single = [{"Sequence": {"id": "A", "type_id": 0}}]
    if around > 0:
        single.insert(0, {"SpecialToken": {"id": "<start>", "type_id": 0}})
    if around > 1:
        single.append({"SpecialToken": {"id": "<end>", "type_id": 0}})
    ids = {text: {"id": text, "ids": [len(WORDS) + i], "tokens": [text]} for i, text in enumerate(ADDED)}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": None,
        "added_tokens": [token(text, special=True) | flags | {"id": len(WORDS) + i} for i, text in enumerate(ADDED)],
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": ids} if around else None,
        "model": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(WORDS)}, "unk_token": "<unk>"}}


def cases():
    """(tokenizer.json, tokenizer_config.json, other files)"""
    decoder = lambda *tokens: {"added_tokens_decoder": {str(i): t for i, t in tokens}}
    typed = lambda text, **flags: {"__type": "AddedToken"} | token(text, **flags)
    for around in range(3):
        for key in ({}, {"add_bos_token": True}, {"add_bos_token": False, "add_eos_token": True}):
            yield base(around), NAMES | key, {}
    plain = base(special=False)
    for more in ({"eos_token": "<new>"}, {"eos_token": typed("<new>", lstrip=True, rstrip=True)}, {"pad_token": "the"}, {"image_token": "<im>"},
                 {"extra_special_tokens": ["<new>", "<im>"]}, {"extra_special_tokens": {"image_token": "<im>"}}, {"additional_special_tokens": ["<new>", "<im>"]},
                 {"eos_token": typed("<end>", lstrip=True)}, {"pad_token": "<new>", "eos_token": "<im>"}, {"image_token": "<im>", "extra_special_tokens": ["<new>"]},
                 decoder((N, token("<new>", special=True)), (N + 1, token("<im>"))), decoder((N + 5, token("<new>", special=True)), (N + 1, token("<im>"))),
                 decoder((6, token("<end>"))), decoder((4, token("the"))), decoder((6, token("<end>", special=True, lstrip=True, rstrip=True))),
                 {"pad_token": "<im>"} | decoder((N, token("<new>")), (N + 1, token("<im>", rstrip=True))), {"extra_special_tokens": ["<new>"]} | decoder((N, token("<new>")))):
        yield base(), NAMES | more, {}
    for more in ({}, {"pad_token": "<pad>"}, {"extra_special_tokens": ["<pad>"]}, {"additional_special_tokens": ["<pad>", "<new>"]},
                 decoder(*((5 + i, token(text, special=True, rstrip=True)) for i, text in enumerate(ADDED)))):
        yield plain, NAMES | more, {}
    yield base(), NAMES, {"added_tokens.json": {"<im>": N + 1, "<new>": N}}
    yield base(), NAMES | {"extra_special_tokens": ["<im>"]}, {"added_tokens.json": {"<im>": N + 1, "<new>": N}}
    yield base(), NAMES, {"special_tokens_map.json": {"eos_token": "<new>"}}
    yield base(), NAMES, {"special_tokens_map.json": {"eos_token": token("<im>", lstrip=True), "additional_special_tokens": ["<new>"]}}
    yield base(), NAMES | decoder((N, token("<im>"))), {"special_tokens_map.json": {"eos_token": "<new>"}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    logging.set_verbosity_error()
    lines = []
    for tokenizer, config, more in cases():
        files = {name: json.dumps(data, separators=(",", ":")) for name, data in
                 ({"tokenizer.json": tokenizer, "tokenizer_config.json": config, "config.json": {"model_type": "mixtral"}} | more).items()}
        with tempfile.TemporaryDirectory() as path:
            for name, text in files.items():
                (Path(path) / name).write_text(text)
            t = AutoTokenizer.from_pretrained(path)
            rows = []
            for text in TEXTS:
                ids = t.encode(text)
                rows.append({"text": text, "ids": ids, "decoded": t.decode(ids), "plain": t.decode(ids, skip_special_tokens=True)})
        lines.append(json.dumps({"files": files, "rows": rows}, ensure_ascii=False) + "\n")
    args.out.write_text("".join(lines))
    print(len(lines), args.out.stat().st_size)


if __name__ == "__main__":
    main()
