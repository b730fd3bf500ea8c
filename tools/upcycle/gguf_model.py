"""Read a dense Llama-style GGUF file into float32 arrays.

The only module that knows GGUF. It takes every size from the file's metadata,
expands quantised tensors, undoes the row permutation that the GGUF converter
applies to the query and key projections (so that RoPE pairs element i with
i + D/2, as in Hugging Face checkpoints), and rounds every weight to bf16.
Rounding here, once, means that the dense reference, the exact form and the
sparse form all start from the very numbers that are written to disk.

Shapes: V vocabulary, H hidden, F feed-forward width, D head dim.
"""
from dataclasses import dataclass, field

import numpy as np
from gguf import GGUFReader, dequantize

class ModelError(Exception):
    """The file is not a model this tool can convert; the text says why."""


@dataclass
class Layer:
    attn_norm: np.ndarray      # [H]
    wq: np.ndarray             # [heads * D, H]
    wk: np.ndarray             # [kv_heads * D, H]
    wv: np.ndarray             # [kv_heads * D, H]
    wo: np.ndarray             # [H, heads * D]
    ffn_norm: np.ndarray       # [H]
    w_gate: np.ndarray         # [F, H]
    w_up: np.ndarray           # [F, H]
    w_down: np.ndarray         # [H, F]


@dataclass
class Model:
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    eps: float
    theta: float
    embed: np.ndarray          # [V, H], also the output head
    out_norm: np.ndarray       # [H]
    layers: list = field(default_factory=list)
    vocab: dict = field(default_factory=dict)   # tokenizer metadata, see read_vocab


def round_bf16(x):
    """Nearest bf16 value (ties to even), still stored as float32."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return kept.view(np.float32)


def undo_permutation(w, heads):
    """[heads * D, H] with rotary pairs interleaved -> halves apart.

    The converter stores rows of one head as 0, D/2, 1, D/2 + 1, ..."""
    rows, cols = w.shape
    d = rows // heads
    return w.reshape(heads, d // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def _metadata(reader, key, default=None):
    entry = reader.get_field(key)
    if entry is not None:
        return entry.contents()
    if default is None:
        raise ModelError(f"metadata key '{key}' is missing")
    return default


def read_vocab(reader):
    """Everything the tokenizer files are made from, as plain Python values."""
    if _metadata(reader, "tokenizer.ggml.model") != "gpt2":
        raise ModelError("only byte-level BPE vocabularies are supported")
    vocab = {
        "pre": _metadata(reader, "tokenizer.ggml.pre"),
        "tokens": _metadata(reader, "tokenizer.ggml.tokens"),
        "types": _metadata(reader, "tokenizer.ggml.token_type"),
        "merges": _metadata(reader, "tokenizer.ggml.merges"),
        "bos": _metadata(reader, "tokenizer.ggml.bos_token_id"),
        "eos": _metadata(reader, "tokenizer.ggml.eos_token_id"),
        "add_bos": _metadata(reader, "tokenizer.ggml.add_bos_token", False),
        "chat_template": _metadata(reader, "tokenizer.chat_template", ""),
    }
    vocab["pad"] = _metadata(reader, "tokenizer.ggml.padding_token_id", vocab["eos"])
    vocab["unk"] = _metadata(reader, "tokenizer.ggml.unknown_token_id", -1)
    return vocab


class _Tensors:
    """Named tensors of one file, expanded and checked on request."""

    def __init__(self, reader):
        self.by_name = {t.name: t for t in reader.tensors}

    def take(self, name, *shape):
        t = self.by_name.get(name)
        if t is None:
            raise ModelError(f"tensor '{name}' is missing")
        w = dequantize(t.data, t.tensor_type)
        if w.shape != shape:
            raise ModelError(f"tensor '{name}' has shape {w.shape}, wanted {shape}")
        return round_bf16(w)


def load(path):
    """The whole model, float32 arrays holding bf16 values."""
    reader = GGUFReader(path)
    arch = _metadata(reader, "general.architecture")
    if arch != "llama":
        raise ModelError(f"architecture '{arch}' is not supported, wanted 'llama'")

    def size(key, default=None):
        return int(_metadata(reader, f"{arch}.{key}", default))

    heads = size("attention.head_count")
    hidden = size("embedding_length")
    m = Model(
        hidden=hidden,
        ffn=size("feed_forward_length"),
        heads=heads,
        kv_heads=size("attention.head_count_kv", heads),
        head_dim=size("rope.dimension_count", hidden // heads),
        context=size("context_length"),
        # The file stores these as float32; the shortest decimal is what was meant.
        eps=float(str(np.float32(_metadata(reader, f"{arch}.attention.layer_norm_rms_epsilon")))),
        theta=float(_metadata(reader, f"{arch}.rope.freq_base", 10000.0)),
        embed=None, out_norm=None)
    m.vocab = read_vocab(reader)
    tensors = _Tensors(reader)
    if "output.weight" in tensors.by_name:
        raise ModelError("an untied output head is not supported")
    m.embed = tensors.take("token_embd.weight", len(m.vocab["tokens"]), hidden)
    m.out_norm = tensors.take("output_norm.weight", hidden)
    q, kv = heads * m.head_dim, m.kv_heads * m.head_dim
    for i in range(size("block_count")):
        def take(part, *shape):
            return tensors.take(f"blk.{i}.{part}.weight", *shape)
        m.layers.append(Layer(
            attn_norm=take("attn_norm", hidden),
            wq=undo_permutation(take("attn_q", q, hidden), heads),
            wk=undo_permutation(take("attn_k", kv, hidden), m.kv_heads),
            wv=take("attn_v", kv, hidden),
            wo=take("attn_output", hidden, q),
            ffn_norm=take("ffn_norm", hidden),
            w_gate=take("ffn_gate", m.ffn, hidden),
            w_up=take("ffn_up", m.ffn, hidden),
            w_down=take("ffn_down", hidden, m.ffn)))
    return m
