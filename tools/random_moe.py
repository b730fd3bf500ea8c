#!/usr/bin/env python3
"""random_moe.py - a checkpoint with random weights in the shape of a real one, for benchmarks: Mixtral's architecture, bf16.

usage: random_moe.py [--hidden 2048 --layers 8 --experts 64 --topk 8 --ffn 1024 --heads 16 --kv-heads 4 --head-dim 128
                      --vocab 32000] [--tokenizer DIR] OUT

The defaults are 3.44 billion weights, 6.9 GB. The tokenizer, if one is given, is copied: its ids must be in the vocabulary.
Router logits of random weights are nearly uniform over experts. Shards of at most 1 GB; the seed is fixed."""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

SHARD_BYTES = 1 << 30


def arguments():
    a = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    sizes = {"hidden": 2048, "layers": 8, "experts": 64, "topk": 8, "ffn": 1024, "heads": 16, "kv-heads": 4, "head-dim": 128, "vocab": 32000}
    for name, default in sizes.items():
        a.add_argument(f"--{name}", type=int, default=default)
    a.add_argument("--tokenizer", help="a folder with tokenizer.json")
    a.add_argument("out", type=Path)
    return a.parse_args()


def config(o):
    return {
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "torch_dtype": "bfloat16", "hidden_act": "silu",
        "hidden_size": o.hidden, "num_hidden_layers": o.layers, "intermediate_size": o.ffn, "num_attention_heads": o.heads,
        "num_key_value_heads": o.kv_heads, "head_dim": o.head_dim, "num_local_experts": o.experts, "num_experts_per_tok": o.topk,
        "vocab_size": o.vocab, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "sliding_window": None,
    }  # fmt: skip


def tensors(o):
    """Names and shapes, in the order of the files."""
    H, q, kv = o.hidden, o.heads * o.head_dim, o.kv_heads * o.head_dim
    yield "model.embed_tokens.weight", (o.vocab, H)
    for i in range(o.layers):
        at = f"model.layers.{i}."
        for name, shape in (("q", (q, H)), ("k", (kv, H)), ("v", (kv, H)), ("o", (H, q))):
            yield f"{at}self_attn.{name}_proj.weight", shape
        for name in ("input", "post_attention"):
            yield f"{at}{name}_layernorm.weight", (H,)
        yield f"{at}block_sparse_moe.gate.weight", (o.experts, H)
        for e in range(o.experts):
            for name, shape in (("w1", (o.ffn, H)), ("w2", (H, o.ffn)), ("w3", (o.ffn, H))):
                yield f"{at}block_sparse_moe.experts.{e}.{name}.weight", shape
    yield "model.norm.weight", (H,)
    yield "lm_head.weight", (o.vocab, H)


def numbers(rng, shape):
    """Rows of variance 1 / inputs, so that activations keep their size; norms are one."""
    if len(shape) == 1:
        values = np.ones(shape, np.float32)
    else:
        values = rng.standard_normal(shape, np.float32) * np.float32(shape[1] ** -0.5)
    return (values.view(np.uint32) >> 16).astype("<u2")


def shards(o):
    shard, size = [], 0
    for name, shape in tensors(o):
        n = 2 * int(np.prod(shape))
        if shard and size + n > SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append((name, shape, n))
        size += n
    yield shard


def write_shard(path, shard, rng):
    header, at = {}, 0
    for name, shape, n in shard:
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, shape, _ in shard:
            f.write(numbers(rng, shape).tobytes())


def main():
    o = arguments()
    o.out.mkdir(parents=True, exist_ok=True)
    rng, index, all_shards = np.random.default_rng(1), {}, list(shards(o))
    for i, shard in enumerate(all_shards):
        name = f"model-{i + 1:05}-of-{len(all_shards):05}.safetensors"
        print(f"{name}: {len(shard)} tensors", flush=True)
        write_shard(o.out / name, shard, rng)
        index |= {tensor: name for tensor, _, _ in shard}
    total = sum(n for shard in all_shards for _, _, n in shard)
    (o.out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}))
    (o.out / "config.json").write_text(json.dumps(config(o), indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if o.tokenizer and Path(o.tokenizer, name).exists():
            shutil.copy(Path(o.tokenizer, name), o.out)


if __name__ == "__main__":
    main()
