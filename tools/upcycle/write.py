"""Write a model directory that Cadre loads.

Files appear under a .tmp name and are renamed when whole. SHA256SUMS comes
last, so a directory that has one is complete (manifest.problem is the check).
"""
import json
import os

import numpy as np

import manifest
import tokenizer


def _replace(path, fill):
    partial = path.with_name(path.name + ".tmp")
    with open(partial, "wb") as f:
        fill(f)
        f.flush()
        os.fsync(f.fileno())
    partial.rename(path)


def write_json(path, value, indent=2):
    text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
    _replace(path, lambda f: f.write(text.encode()))


def bf16_bytes(x):
    """Arrays hold bf16 values already, so dropping the low half is exact."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    if np.any(bits & 0xFFFF):
        raise ValueError("a tensor was not rounded to bf16")
    return (bits >> 16).astype("<u2").tobytes()


def _tensor_list(model, moe):
    """(name, dtype, array) of every tensor, in file order."""
    yield "model.embed_tokens.weight", "BF16", model.embed
    yield "model.norm.weight", "BF16", model.out_norm
    for i, (layer, sparse) in enumerate(zip(model.layers, moe.layers)):
        at = f"model.layers.{i}."
        yield at + "input_layernorm.weight", "BF16", layer.attn_norm
        yield at + "post_attention_layernorm.weight", "BF16", layer.ffn_norm
        for part, w in zip("qkvo", (layer.wq, layer.wk, layer.wv, layer.wo)):
            yield at + f"self_attn.{part}_proj.weight", "BF16", w
        yield at + "mlp.gate.weight", "F32", sparse.gate
        if sparse.bias is not None:
            yield at + "mlp.gate.bias", "F32", sparse.bias
        blocks = [(f"experts.{j}", rows) for j, rows in enumerate(sparse.experts)]
        if len(sparse.shared):
            blocks.append(("shared_expert", sparse.shared))
        for name, rows in blocks:
            yield at + f"mlp.{name}.gate_proj.weight", "BF16", layer.w_gate[rows]
            yield at + f"mlp.{name}.up_proj.weight", "BF16", layer.w_up[rows]
            yield at + f"mlp.{name}.down_proj.weight", "BF16", sparse.w_down[:, rows]


def write_safetensors(path, model, moe):
    """Header (8-byte length, JSON), then the tensors' bytes without gaps."""
    size = {"BF16": 2, "F32": 4}
    # All F32 tensors first: with the header padded to 8, all data is aligned.
    order = sorted(_tensor_list(model, moe), key=lambda t: t[1] != "F32")
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, w in order:
        end = at + w.size * size[dtype]
        header[name] = {"dtype": dtype, "shape": list(w.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def fill(f):
        f.write(len(text).to_bytes(8, "little") + text)
        for _, dtype, w in order:
            f.write(bf16_bytes(w) if dtype == "BF16" else np.ascontiguousarray(w, "<f4").tobytes())
    _replace(path, fill)


def config_json(model, moe):
    vocab = model.vocab
    return {
        "architectures": ["CadreMoeForCausalLM"], "model_type": "cadre_moe",
        "hidden_size": model.hidden, "num_hidden_layers": len(model.layers),
        "num_attention_heads": model.heads, "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim, "vocab_size": len(model.embed),
        "rms_norm_eps": model.eps, "rope_theta": model.theta,
        "max_position_embeddings": model.context, "tie_word_embeddings": True,
        "hidden_act": "silu", "torch_dtype": "bfloat16", "attention_bias": False,
        "bos_token_id": vocab["bos"], "eos_token_id": vocab["eos"],
        "moe_intermediate_size": moe.width, "num_experts": moe.experts,
        "num_experts_per_tok": moe.top_k, "shared_expert_intermediate_size": moe.shared,
        "moe_router": {"kind": "flat", "score": "raw", "k": moe.top_k, "norm": "none", "scale": 1.0,
                       "weight": "one", "bias": moe.layers[0].bias is not None, "sel_bias": False}}


def write_model(folder, model, moe, report):
    """Everything, manifest last. An old manifest goes first: the directory is in flux."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / manifest.MANIFEST).unlink(missing_ok=True)
    vocab = model.vocab
    write_json(folder / "config.json", config_json(model, moe))
    write_json(folder / "generation_config.json",
               {"bos_token_id": vocab["bos"], "eos_token_id": vocab["eos"], "pad_token_id": vocab["pad"]})
    write_json(folder / "tokenizer.json", tokenizer.tokenizer_json(vocab), indent=None)
    write_json(folder / "tokenizer_config.json", tokenizer.tokenizer_config(vocab, model.context))
    write_safetensors(folder / "model.safetensors", model, moe)
    write_json(folder / manifest.REPORT, report)
    names = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
             "tokenizer_config.json", manifest.REPORT]
    lines = manifest.text(folder, names)
    _replace(folder / manifest.MANIFEST, lambda f: f.write(lines.encode()))
