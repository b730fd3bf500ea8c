#!/usr/bin/env python3
"""bench_formats.py - what q4 costs on weights that nobody has quantised before, beside GGUF's formats on the same weights.

Random matrices, normally distributed and heavy-tailed, go through `cadre pack --weights q4` and through the `gguf` package's
Q4_0 and Q4_1; the error is that of products with normally distributed inputs, relative to the products. q4 has 4.75 bits per
weight, Q4_0 4.5 and Q4_1 5: bits are bought at 6 dB each, so what q4's error would be with the other's bits is said too.

usage: ~/.cache/cadre/venv/bin/python tests/bench/bench_formats.py --build DIR [--check]"""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

HIDDEN, FFN, VOCAB, INPUTS, SEED = 1024, 2048, 32, 256, 1
PAGE, HEADER, TENSOR, MLP_UP = 4096, 320, 3, "model.layers.0.mlp.up_proj.weight"
BITS = {"q4": 4.75, "Q4_0": 4.5, "Q4_1": 5.0}
MOST = 1.0  # of the other's error, at the other's bits: no worse
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": 1,
    "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": HIDDEN // 8, "vocab_size": VOCAB, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "rope_theta": 1e4, "hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def checkpoint(folder, up):
    """One dense layer; all but `up` is of no interest."""
    layer = "model.layers.0."
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "lm_head.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    shapes |= {f"{layer}{n}_layernorm.weight": (HIDDEN,) for n in ("input", "post_attention")}
    shapes |= {f"{layer}self_attn.{n}_proj.weight": (HIDDEN, HIDDEN) for n in "qkvo"}
    shapes |= {f"{layer}mlp.gate_proj.weight": (FFN, HIDDEN), f"{layer}mlp.down_proj.weight": (HIDDEN, FFN), MLP_UP: up.shape}
    head, data = {}, b""
    for name, shape in shapes.items():
        words = (up if name == MLP_UP else np.ones(shape, np.float32)).tobytes()
        head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(words)]}
        data += words
    text = json.dumps(head).encode()
    Path(folder, "config.json").write_text(json.dumps(CONFIG))
    Path(folder, "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def tensors(pack):
    """Matrices of a pack that are in no expert's blob (docs/PACK.md), in its order: rows, cols, bytes."""
    data, at = pack.read_bytes(), PAGE
    while at < len(data):
        kind, payload = struct.unpack_from("<I", data, at + 8)[0], struct.unpack_from("<Q", data, at + 40)[0]
        _, _, _, rows, cols, first, n = struct.unpack_from("<HHIIIQQ", data, at + 64)
        if kind == TENSOR:
            yield rows, cols, data[at + first : at + first + n]
        at += (HEADER + payload + PAGE - 1) // PAGE * PAGE


def decode_q4(rows, cols, piece):
    """kernels/quant.h: panels of 16 rows, groups of 32 columns."""
    panels, groups = rows // 16, cols // 32
    n = panels * groups * 256
    codes = np.frombuffer(piece[:n], np.uint8).reshape(panels, groups, 4, 16, 4)
    both = np.stack([codes & 15, codes >> 4], axis=3)  # [panel, group, vector, low or high, row, 4]
    levels = both.transpose(0, 4, 1, 2, 3, 5).reshape(panels, 16, groups, 32).astype(np.float32)
    scales = np.frombuffer(piece[(n + 63) // 64 * 64 :], np.uint8)[: panels * groups * 48].reshape(panels, groups, 48)
    step = (scales[..., :32].copy().view(np.uint16).astype(np.uint32) << 16).view(np.float32).transpose(0, 2, 1)[..., None]
    zero = scales[..., 32:].astype(np.float32).transpose(0, 2, 1)[..., None]
    return ((16 * levels - zero) * step).reshape(rows, cols)


def through_q4(cadre, w):
    with tempfile.TemporaryDirectory() as folder:
        model, pack = Path(folder, "model"), Path(folder, "pack")
        model.mkdir()
        checkpoint(model, w)
        subprocess.run([cadre, "pack", model, "-o", pack, "--weights", "q4", "-q"], check=True, stdout=subprocess.DEVNULL)
        [piece] = [t for t in list(tensors(pack / "weights.pack"))[-2:-1] if t[:2] == w.shape]
        return decode_q4(*piece)


def through_gguf(kind, w):
    return gguf.quants.dequantize(gguf.quants.quantize(w, kind), kind)


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    a.add_argument("--build", required=True, type=Path)
    a.add_argument("--check", action="store_true", help="exit 1 when q4 is worse than either")
    o = a.parse_args()
    r, figures, missed = np.random.default_rng(SEED), {}, []
    shapes = {"normal": r.standard_normal((FFN, HIDDEN)), "Student's t, 5": r.standard_t(5, (FFN, HIDDEN)),
              "Student's t, 3": r.standard_t(3, (FFN, HIDDEN)), "Laplace": r.laplace(size=(FFN, HIDDEN))}  # fmt: skip
    x = r.standard_normal((HIDDEN, INPUTS)).astype(np.float32)
    print(f"{'weights':16}" + "".join(f"{n + ', ' + str(b) + ' bits':>18}" for n, b in BITS.items()) + f"{'to Q4_0':>10}{'to Q4_1':>10}")
    for name, w in shapes.items():
        w = (w * 0.02).astype(np.float32)
        held = {"q4": through_q4(o.build / "cli/cadre", w)}
        held |= {n: through_gguf(getattr(gguf.GGMLQuantizationType, n), w) for n in ("Q4_0", "Q4_1")}
        wanted = w @ x
        e = {n: float(np.linalg.norm(h @ x - wanted) / np.linalg.norm(wanted)) for n, h in held.items()}
        ratio = {n: e["q4"] * 2.0 ** (BITS["q4"] - BITS[n]) / e[n] for n in ("Q4_0", "Q4_1")}
        figures[name] = {"error": e, "ratio_at_equal_bits": ratio, "ratio": {n: e["q4"] / e[n] for n in ratio}}
        print(f"{name:16}" + "".join(f"{v:18.4f}" for v in e.values()) + "".join(f"{v:10.3f}" for v in ratio.values()))
        missed += [f"{name}, to {n}: {v:.4f}, at most {MOST}" for n, v in ratio.items() if v > MOST]
    print("errors of products; the last two columns: q4's error to the other's, both at the other's bits")
    for line in missed:
        print(f"MISSED  {line}")
    print(json.dumps({"bench": "formats", "missed": len(missed), "weights": figures}))
    return 1 if o.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
