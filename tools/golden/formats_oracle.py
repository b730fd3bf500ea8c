"""GPT-OSS and the block formats (fp8, mxfp4) in plain arithmetic, and the ways to get them wrong.

Has the shape of oracle.py (Model, forward, applies, MUTATIONS), so that make_checkpoints.py can work with either. Numbers of the
block formats are taken apart here bit by bit; the reference implementation's own decoders are used only by make_formats.py.

GPT-OSS per layer (x the normed rows, z = W x + b everywhere):
  s_ij = q_i.k_j / sqrt(D) over the keys j in (i - window, i] of a sliding layer, or [0, i]; p = softmax over s_i and the head's
  sink together, the sink's share dropped; router: the k best logits, softmax over them;
  expert: g = min(z_gate, limit), u = clamp(z_up, +-limit), W_down(g sigmoid(alpha g) (u + 1)) + b_down.
"""
import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import oracle

MUTATIONS = {n: oracle.MUTATIONS[n] for n in (
    "theta", "rope_interleaved", "eps_smaller", "eps_larger", "eps_zero", "causal_late", "causal_early", "attention_scale",
    "head_mapping", "bias_v", "residual_attention", "residual_mlp", "norm_input", "norm_post", "norm_final", "gate_up_swapped",
    "k_plus", "k_minus", "expert_order", "router_bias", "moe_input", "last_token_id")} | {
    "sinks": "attention sinks left out",
    "sink_order": "every head with the sink of the head before it",
    "window": "every layer sees all of the past",
    "window_all": "every layer slides",
    "window_long": "sliding layers see one token more",
    "window_shifted": "the layer kinds exchanged",
    "yarn": "RoPE without YaRN",
    "yarn_truncate": "YaRN's ramp between whole pairs",
    "yarn_amplitude": "cosines and sines without YaRN's factor",
    "clamp": "no clamps before the activation",
    "clamp_gate_low": "the gate clamped from below, too",
    "alpha": "sigmoid of g instead of 1.702 g",
    "shift": "times u instead of u + 1",
    "expert_bias": "biases of the experts left out",
    "bias_down": "bias of the experts' down projection left out",
    "interleave": "gate and up rows as two halves instead of every other one",
    "softmax_all": "softmax over all experts instead of the selected",
    "scale_next": "every block with the scale of the next one in its row",
    "scale_row": "every block with the scale of the block below (fp8) or of the next row (mxfp4)",
    "scale_size": "blocks of half the size",
    "nibbles": "the high nibble first",
    "fp8_subnormal": "subnormal numbers as zero",
    "fp8_bias": "exponent bias 8 instead of 7",
}


def e4m3(code, wrong):
    """uint8 array -> float64: sign, 4 bits of exponent (bias 7), 3 of mantissa."""
    exponent, mantissa = (code >> 3 & 15).astype(np.int64), (code & 7).astype(np.float64)
    normal = np.ldexp(1 + mantissa / 8, exponent - (8 if "fp8_bias" in wrong else 7))
    small = np.zeros_like(normal) if "fp8_subnormal" in wrong else mantissa / 8 * 2.0 ** -6
    return np.where(code & 128, -1.0, 1.0) * np.where(exponent > 0, normal, small)


def e2m1(code):
    exponent, mantissa = (code >> 1 & 3).astype(np.int64), (code & 1).astype(np.float64)
    return np.where(code & 8, -1.0, 1.0) * np.where(exponent > 0, np.ldexp(1 + mantissa / 2, exponent - 1), mantissa / 2)


def expand_fp8(codes, scales, block, wrong=()):
    """codes u8 [N,K], scales f32 [ceil(N/block), ceil(K/block)] -> f32 [N,K]."""
    side = block // 2 if "scale_size" in wrong else block
    if "scale_next" in wrong:
        scales = np.roll(scales, -1, 1)
    if "scale_row" in wrong:
        scales = np.roll(scales, -1, 0)
    row = np.minimum(np.arange(codes.shape[0]) // side, scales.shape[0] - 1)
    col = np.minimum(np.arange(codes.shape[1]) // side, scales.shape[1] - 1)
    return (e4m3(codes, wrong).astype(np.float32) * scales[row][:, col].astype(np.float32)).astype(np.float32)


def expand_mxfp4(blocks, scales, wrong=()):
    """blocks u8 [..., G, 16], scales u8 [..., G] -> f32 [..., 32 G]."""
    low, high = blocks & 15, blocks >> 4
    pair = (high, low) if "nibbles" in wrong else (low, high)
    values = np.stack([e2m1(p) for p in pair], -1).reshape(*blocks.shape[:-1], 32)
    if "scale_next" in wrong:
        scales = np.roll(scales, -1, -1)
    if "scale_row" in wrong:
        scales = np.roll(scales, -1, -2)
    full = np.ldexp(values, scales.astype(np.int64)[..., None] - 127)
    return full.reshape(*blocks.shape[:-2], -1).astype(np.float32)


def bytes_of(t):
    return t.view(torch.uint8).numpy()


class Model(oracle.Model):
    """Tensors under the names of a checkpoint that is not quantised and has one tensor per expert and matrix."""

    def __init__(self, directory, dtype=torch.float32):
        directory = Path(directory)
        self.directory = directory
        c = self.config = json.loads((directory / "config.json").read_text())
        self.quant = (c.get("quantization_config") or {}).get("quant_method")
        if c["model_type"] != "gpt_oss":
            super().__init__(directory, dtype)
        else:
            self.heads, self.kv_heads, self.head_dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
            self.eps, self.theta, self.router = c["rms_norm_eps"], c["rope_theta"], {"k": c["num_experts_per_tok"]}
        self.dtype, self.family, self.layers = dtype, c["model_type"], c["num_hidden_layers"]
        self.w = self.tensors(())

    def tensors(self, wrong):
        raw = load_file(self.directory / "model.safetensors")
        if self.quant == "fp8":
            block = self.config["quantization_config"]["weight_block_size"][0]
            for name in [n for n in raw if n.endswith("_scale_inv")]:
                base = name.removesuffix("_scale_inv")
                scales = raw.pop(name).float().numpy()
                raw[base] = torch.from_numpy(expand_fp8(bytes_of(raw[base]), scales, block, wrong))
        if self.quant == "mxfp4":
            for name in [n for n in raw if n.endswith("_blocks")]:
                base = name.removesuffix("_blocks")
                scales = raw.pop(base + "_scales").numpy()
                raw[base] = torch.from_numpy(expand_mxfp4(raw.pop(name).numpy(), scales, wrong)).transpose(1, 2)
        out = {}
        for name, t in raw.items():
            t = t.to(self.dtype)
            prefix, _, part = name.partition(".mlp.experts.")
            if self.family != "gpt_oss" or not part:
                out[name] = t
                continue
            for e in range(t.shape[0]):
                p, kind = f"{prefix}.mlp.experts.{e}.", ".bias" if part.endswith("_bias") else ".weight"
                one = t[e] if kind == ".bias" else t[e].T
                if part.startswith("down"):
                    out[p + "down_proj" + kind] = one.contiguous()
                    continue
                half = one.shape[0] // 2
                gate, up = (one[:half], one[half:]) if "interleave" in wrong else (one[0::2], one[1::2])
                out[p + "gate_proj" + kind], out[p + "up_proj" + kind] = gate.contiguous(), up.contiguous()
        return out


def frequencies(c, wrong):
    """-> radians per position [D/2] in float64, factor of cosines and sines."""
    r, dim = c["rope_scaling"], c["head_dim"]
    plain = c["rope_theta"] ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    amplitude = 1.0 if wrong & {"yarn", "yarn_amplitude"} else 0.1 * math.log(r["factor"]) + 1
    if "yarn" in wrong:
        return plain, amplitude

    def pair(turns):
        return dim * math.log(r["original_max_position_embeddings"] / (turns * 2 * math.pi)) / (2 * math.log(c["rope_theta"]))

    low, high = pair(r["beta_fast"]), pair(r["beta_slow"])
    if r["truncate"] != ("yarn_truncate" in wrong):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = ((torch.arange(dim // 2, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    return plain * (1 - ramp) + plain / r["factor"] * ramp, amplitude


def rotate(x, angle, amplitude, interleaved):
    cos, sin = ((amplitude * f(angle)).to(x.dtype)[:, None, :] for f in (torch.cos, torch.sin))
    half = x.shape[-1] // 2
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    turned = a * cos - b * sin, b * cos + a * sin
    return torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)


def slides(m, layer, wrong):
    kinds = m.config.get("layer_types")
    on = layer % 2 == 0 if kinds is None else kinds[layer] == "sliding_attention"
    return "window" not in wrong and ("window_all" in wrong or on != ("window_shifted" in wrong))


def attention(m, layer, x, wrong, theta):
    p, tokens = f"model.layers.{layer}.self_attn.", x.shape[0]
    project = lambda name, rows, bias=True: rows @ m.w[f"{p}{name}_proj.weight"].T + (m.w[f"{p}{name}_proj.bias"] if bias else 0)
    q, k, v = (project(n, x, not (n == "v" and "bias_v" in wrong)).view(tokens, -1, m.head_dim) for n in "qkv")
    freq, amplitude = frequencies(m.config | {"rope_theta": theta}, wrong)
    position = torch.arange(tokens)
    angle = position.double()[:, None] * freq
    q, k = (rotate(t, angle, amplitude, "rope_interleaved" in wrong) for t in (q, k))
    last = position + (-1 if "causal_late" in wrong else 1 if "causal_early" in wrong else 0)
    hidden = position[None, :] > last[:, None].clamp(min=0)
    if slides(m, layer, wrong):
        length = m.config["sliding_window"] + ("window_long" in wrong)
        hidden = hidden | (position[None, :] <= position[:, None] - length)
    scale, out = m.head_dim ** -0.5 * (1.1 if "attention_scale" in wrong else 1), []
    for h in range(m.heads):
        kv = h % m.kv_heads if "head_mapping" in wrong else h // (m.heads // m.kv_heads)
        s = (q[:, h] @ k[:, kv].T * scale).masked_fill(hidden, float("-inf"))
        sink = m.w[p + "sinks"][h - 1 if "sink_order" in wrong else h].expand(tokens, 1)
        s = s if "sinks" in wrong else torch.cat((s, sink), -1)
        out.append(torch.softmax(s, -1)[:, :tokens] @ v[:, kv])
    return project("o", torch.cat(out, -1))


def expert(m, prefix, x, wrong):
    drop = "expert_bias" in wrong
    project = lambda n, rows, bias: rows @ m.w[f"{prefix}{n}_proj.weight"].T + (0 if bias else m.w[f"{prefix}{n}_proj.bias"])
    g, u = project("gate", x, drop), project("up", x, drop)
    if "gate_up_swapped" in wrong:
        g, u = u, g
    limit = m.config.get("swiglu_limit", 7.0)
    if "clamp" not in wrong:
        g = g.clamp(min=-limit if "clamp_gate_low" in wrong else None, max=limit)
        u = u.clamp(-limit, limit)
    act = g * torch.sigmoid(g * (1 if "alpha" in wrong else 1.702)) * (u + ("shift" not in wrong))
    return project("down", act, drop or "bias_down" in wrong)


def moe(m, layer, x, wrong, trace):
    p = f"model.layers.{layer}.mlp."
    z = x @ m.w[p + "router.weight"].T
    if "router_bias" not in wrong:
        z = z + m.w[p + "router.bias"]
    k = m.router["k"] + ("k_plus" in wrong) - ("k_minus" in wrong)
    top = torch.sort(z, dim=-1, descending=True, stable=True)
    ids = top.indices[:, :k]
    weight = torch.softmax(z, -1).gather(-1, ids) if "softmax_all" in wrong else torch.softmax(top.values[:, :k], -1)
    if trace is not None:
        trace["experts"].append(ids)
        trace["gap"].append((top.values[:, k - 1] - top.values[:, k]) / top.values[:, k - 1].abs())
    y = torch.zeros_like(x)
    for slot in range(k):
        for e in ids[:, slot].unique().tolist():
            rows = (ids[:, slot] == e).nonzero()[:, 0]
            source = {0: 1, 1: 0}.get(e, e) if "expert_order" in wrong else e
            y[rows] += weight[rows, slot, None] * expert(m, f"{p}experts.{source}.", x[rows], wrong)
    return y


FORMAT = {"interleave", "scale_next", "scale_row", "scale_size", "nibbles", "fp8_subnormal", "fp8_bias"}


@torch.no_grad()
def forward(m, ids, wrong=(), trace=None):
    wrong = {wrong} if isinstance(wrong, str) else set(wrong)
    keep = m.w
    if wrong & FORMAT:
        m.w = m.tensors(wrong)
    try:
        if m.family != "gpt_oss":
            return oracle.forward(m, ids, wrong - FORMAT, trace)
        return gpt_oss(m, list(ids), wrong, trace)
    finally:
        m.w = keep


def gpt_oss(m, ids, wrong, trace):
    eps = m.eps / 10 if "eps_smaller" in wrong else m.eps * 10 if "eps_larger" in wrong else 0 if "eps_zero" in wrong else m.eps
    theta = m.theta * 1.1 if "theta" in wrong else m.theta
    if "last_token_id" in wrong:
        ids[-1] = ids[-2]
    x, last = m.w["model.embed_tokens.weight"][torch.tensor(ids)], m.layers - 1
    for layer in range(m.layers):
        p = f"model.layers.{layer}."
        norm = lambda name, rows, skip: rows if skip else oracle.rms_norm(rows, m.w[p + name + ".weight"], eps)
        a = attention(m, layer, norm("input_layernorm", x, "norm_input" in wrong and layer == 0), wrong, theta)
        x = a if "residual_attention" in wrong and layer == last else x + a
        n = norm("post_attention_layernorm", x, "norm_post" in wrong and layer == last)
        f = moe(m, layer, x if "moe_input" in wrong else n, wrong, trace)
        x = f if "residual_mlp" in wrong and layer == 0 else x + f
    if "norm_final" not in wrong:
        x = oracle.rms_norm(x, m.w["model.norm.weight"], eps)
    return x @ m.w["lm_head.weight"].T


def applies(m, name):
    if name in ("nibbles",):
        return m.quant == "mxfp4"
    if name in ("fp8_subnormal", "fp8_bias", "scale_size"):
        return m.quant == "fp8"
    if name in ("scale_next", "scale_row"):
        return m.quant is not None
    if m.family == "gpt_oss":                     # silu-like curves are flat where a limit of 7 would clamp them
        return name != "clamp_gate_low" or m.config.get("swiglu_limit", 7.0) < 3
    return name in oracle.MUTATIONS and name != "router_bias" and oracle.applies(m, name)
