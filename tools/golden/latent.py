"""Checkpoints with multi-head latent attention, and what the oracle knows of it: the tensors, the expanded form of the attention
(arXiv 2405.04434, 2.1; the engine computes the absorbed one), YaRN by its formula, and the mistakes to make.
Used by make_checkpoints.py and oracle.py.

Letters as in the paper: d_n and d_r elements of a query without and with a position, d_v of a value, d_c of a latent.
"""
import json
import math
from pathlib import Path

import numpy as np
import torch

YARN = dict(type="yarn", factor=40, original_max_position_embeddings=4096, beta_fast=32, beta_slow=1)

# As MODELS of make_checkpoints.py: name -> tokenizer kind, seed, style, configuration.
MODELS = {
    # V2-Lite's way: queries without a low rank, all experts in one choice, weights scaled.
    "deepseek_v2": ("llama", 51, "published", dict(
        model_type="deepseek_v2", vocab_size=274, hidden_size=40, intermediate_size=36, num_hidden_layers=3,
        num_attention_heads=5, num_key_value_heads=5, rope_theta=10000, rms_norm_eps=1e-3, max_position_embeddings=163840,
        rope_scaling=YARN | dict(mscale=0.707, mscale_all_dim=0.707), q_lora_rank=None, kv_lora_rank=22, qk_nope_head_dim=10,
        qk_rope_head_dim=12, v_head_dim=14, n_routed_experts=7, n_shared_experts=2, num_experts_per_tok=3, n_group=1,
        topk_group=1, topk_method="greedy", scoring_func="softmax", norm_topk_prob=False, routed_scaling_factor=1.4,
        moe_intermediate_size=11, moe_layer_freq=1, first_k_dense_replace=1, attention_bias=False, pretraining_tp=1,
        seq_aux=True, aux_loss_alpha=0.001)),
    # V2's way: low-rank queries, groups by their best expert; with biases, which no published one has.
    "deepseek_v2_groups": ("llama", 56, "transformers", dict(
        model_type="deepseek_v2", vocab_size=271, hidden_size=44, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, rope_theta=50000.0, rms_norm_eps=1e-3, max_position_embeddings=512,
        q_lora_rank=26, kv_lora_rank=18, qk_nope_head_dim=12, qk_rope_head_dim=6, v_head_dim=9, n_routed_experts=8,
        n_shared_experts=1, num_experts_per_tok=3, n_group=4, topk_group=2, topk_method="group_limited_greedy",
        norm_topk_prob=False, routed_scaling_factor=2.5, moe_intermediate_size=13, first_k_dense_replace=0,
        attention_bias=True)),
    "deepseek_v3": ("qwen", 53, "published", dict(
        model_type="deepseek_v3", vocab_size=282, hidden_size=40, intermediate_size=36, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, rope_theta=10000, rms_norm_eps=1e-3, max_position_embeddings=163840,
        rope_scaling=YARN | dict(mscale=1.0, mscale_all_dim=1.0), q_lora_rank=24, kv_lora_rank=20, qk_nope_head_dim=10,
        qk_rope_head_dim=12, v_head_dim=8, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=3, n_group=4,
        topk_group=2, topk_method="noaux_tc", scoring_func="sigmoid", norm_topk_prob=True, routed_scaling_factor=2.5,
        moe_intermediate_size=17, moe_layer_freq=1, first_k_dense_replace=1, attention_bias=False, ep_size=1,
        num_nextn_predict_layers=1)),
    "kimi_k2": ("qwen", 54, "published", dict(
        model_type="kimi_k2", vocab_size=280, hidden_size=44, intermediate_size=30, num_hidden_layers=2,
        num_attention_heads=3, num_key_value_heads=3, rope_theta=50000.0, rms_norm_eps=1e-4, max_position_embeddings=131072,
        rope_scaling=YARN | dict(factor=32.0, beta_fast=1.0, mscale=1.6, mscale_all_dim=0.7), q_lora_rank=20, kv_lora_rank=24,
        qk_nope_head_dim=8, qk_rope_head_dim=12, v_head_dim=12, n_routed_experts=9, n_shared_experts=1, num_experts_per_tok=4,
        n_group=1, topk_group=1, topk_method="noaux_tc", scoring_func="sigmoid", norm_topk_prob=True,
        routed_scaling_factor=2.827, moe_intermediate_size=13, moe_layer_freq=1, first_k_dense_replace=1,
        attention_bias=False, num_nextn_predict_layers=0)),
}

CLASSES = {"deepseek_v2": "DeepseekV2ForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM", "kimi_k2": "DeepseekV3ForCausalLM"}

MUTATIONS = {
    "latent_norm": "norm of the latents left out",
    "latent_norm_eps": "rms_norm_eps in the norms inside attention, instead of 1e-6",
    "latent_query_norm": "norm of the low-rank queries left out",
    "latent_key_normed": "the position's part of a key divided by the latent's norm",
    "latent_parts": "position's part of a query first instead of last",
    "latent_key_value": "value rows of kv_b before key rows",
    "latent_heads": "kv_b's heads in reverse",
    "latent_scale": "scores scaled by d_n instead of d_n + d_r",
    "yarn": "RoPE frequencies not stretched",
    "yarn_ramp": "the ramp between stretched and kept frequencies not rounded to whole pairs",
    "yarn_scale": "YaRN's temperature left out of the attention's scale",
    "yarn_amplitude": "YaRN's amplitude of cosines and sines left out",
}


def is_latent(c):
    return c.get("kv_lora_rank") is not None


def has_sel_bias(c):
    return c["model_type"] in ("deepseek_v3", "kimi_k2")


def reference_config(directory):
    """transformers has no kimi_k2; its code is DeepSeek-V3's. None: what the directory says."""
    import transformers
    c = json.loads((Path(directory) / "config.json").read_text())
    if c["model_type"] != "kimi_k2":
        return None
    return transformers.DeepseekV3Config(**{k: v for k, v in c.items() if k != "model_type"})


def router_of(c):
    """The rule in the words of cadre_moe's moe_router."""
    if not is_latent(c):
        return None
    v2 = c["model_type"] == "deepseek_v2"
    normalise = c["norm_topk_prob"]
    r = {"score": "softmax" if v2 else "sigmoid", "k": c["num_experts_per_tok"], "norm": "sum" if normalise else "none",
         "norm_eps": 1e-20, "scale": c["routed_scaling_factor"], "weight": "score", "bias": False, "sel_bias": not v2}
    if c.get("topk_method") in ("group_limited_greedy", "noaux_tc") and c["topk_group"] < c["n_group"]:
        r["groups"] = {"rule": "max" if v2 else "top2sum", "n": c["n_group"], "topk": c["topk_group"], "fill": "-inf"}
    return r


def attention_shapes(out, prefix, c):
    H, N = c["hidden_size"], c["num_attention_heads"]
    dn, dr, dv, dc, low = (c[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank", "q_lora_rank"))
    p = prefix + "self_attn."
    if low is None:
        out[p + "q_proj.weight"] = (N * (dn + dr), H)
    else:
        out[p + "q_a_proj.weight"] = (low, H)
        out[p + "q_a_layernorm.weight"] = (low,)
        out[p + "q_b_proj.weight"] = (N * (dn + dr), low)
    out[p + "kv_a_proj_with_mqa.weight"] = (dc + dr, H)
    out[p + "kv_a_layernorm.weight"] = (dc,)
    out[p + "kv_b_proj.weight"] = (N * (dn + dv), dc)
    out[p + "o_proj.weight"] = (H, N * dv)
    if c["attention_bias"]:
        for name in ("q_a_proj", "kv_a_proj_with_mqa", "o_proj"):
            if p + name + ".weight" in out:
                out[p + name + ".bias"] = (out[p + name + ".weight"][0],)


def draw(name, shape, c, z):
    """z, standard normal -> the tensor, or None where make_checkpoints.py knows better. What is normed is made small, so that the
    epsilon of that norm shows."""
    part = name.rsplit(".", 2)[-2]
    if not is_latent(c) or part not in ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"):
        return None
    small, dc = 0.03, c["kv_lora_rank"]
    if name.endswith("bias"):
        size = np.where(np.arange(shape[0]) < dc, small, 0.4) if part == "kv_a_proj_with_mqa" else small
        return size * z
    gain = np.full((shape[0], 1), {"q_a_proj": small, "q_b_proj": 1.3, "kv_a_proj_with_mqa": 1.2, "kv_b_proj": 1.2}[part])
    if part == "kv_a_proj_with_mqa":
        gain[:dc] = small
    return gain / np.sqrt(shape[1]) * z


def yarn_frequencies(c, dims, theta, wrong):
    """[dims/2] radians per position, float64; DeepSeek-V2's paper, appendix, and arXiv 2309.00071."""
    j = np.arange(dims // 2)
    plain = theta ** (-2.0 * j / dims)
    s = c.get("rope_scaling")
    if s is None or "yarn" in wrong:
        return plain
    pair = lambda turns: dims * math.log(s["original_max_position_embeddings"] / (2 * math.pi * turns)) / (2 * math.log(theta))
    low, high = pair(s["beta_fast"]), pair(s["beta_slow"])
    if "yarn_ramp" not in wrong:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    ramp = np.clip((j - low) / max(high - low, 0.001), 0, 1)
    return plain * (1 - ramp) + plain / s["factor"] * ramp


def temperature(s, mscale):
    return 0.1 * mscale * math.log(s["factor"]) + 1


def turn(x, position, frequencies, amplitude, interleaved):
    """x [T,n,d_r]."""
    angle = position.double()[:, None] * torch.from_numpy(frequencies)
    cos, sin = ((f(angle) * amplitude).to(x.dtype)[:, None, :] for f in (torch.cos, torch.sin))
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def rms(x, weight, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def attention(m, layer, x, wrong, theta):
    """x [T,H], already normed -> [T,H]: every key and value written out."""
    c, p, T, N = m.config, f"model.layers.{layer}.self_attn.", len(x), m.heads
    dn, dr, dv, dc = (c[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank"))
    eps = m.eps if "latent_norm_eps" in wrong else 1e-6

    def project(name, rows):
        b = m.w.get(f"{p}{name}.bias")
        y = rows @ m.w[f"{p}{name}.weight"].T
        return y if b is None or "bias" in wrong else y + b

    if p + "q_a_proj.weight" in m.w:
        low = project("q_a_proj", x)
        q = project("q_b_proj", low if "latent_query_norm" in wrong else rms(low, m.w[p + "q_a_layernorm.weight"], eps))
    else:
        q = project("q_proj", x)
    q = q.view(T, N, dn + dr)
    qn, qr = (q[..., dr:], q[..., :dr]) if "latent_parts" in wrong else (q[..., :dn], q[..., dn:])
    both = project("kv_a_proj_with_mqa", x)
    latent, kr = both[:, :dc], both[:, dc:]
    if "latent_key_normed" in wrong:
        kr = kr / torch.sqrt((latent * latent).mean(-1, keepdim=True) + eps)
    if "latent_norm" not in wrong:
        latent = rms(latent, m.w[p + "kv_a_layernorm.weight"], eps)
    kv = (latent @ m.w[p + "kv_b_proj.weight"].T).view(T, N, dn + dv)
    if "latent_heads" in wrong:
        kv = kv.flip(1)
    kn, v = (kv[..., dv:], kv[..., :dv]) if "latent_key_value" in wrong else (kv[..., :dn], kv[..., dn:])

    s = c.get("rope_scaling")
    amplitude = temperature(s, s["mscale"]) / temperature(s, s["mscale_all_dim"]) if s else 1.0
    amplitude = 1.0 if "yarn_amplitude" in wrong else amplitude
    frequencies = yarn_frequencies(c, dr, theta, wrong)
    position = torch.arange(T)
    key_position = position + (position // 16 % 2 if "kv_position" in wrong else 0)
    query_position = position + ((position >= 7).long() if "kv_chunk_position" in wrong else 0)
    interleaved = "rope_interleaved" not in wrong
    qr = turn(qr, query_position, frequencies, amplitude, interleaved)
    kr = turn(kr[:, None], key_position, frequencies, amplitude, interleaved)[:, 0]

    scale = (dn if "latent_scale" in wrong else dn + dr) ** -0.5 * (1.1 if "attention_scale" in wrong else 1.0)
    if s and "yarn_scale" not in wrong:
        scale *= temperature(s, s["mscale_all_dim"]) ** 2
    last_seen = position + (-1 if "causal_late" in wrong else 1 if "causal_early" in wrong else 0)
    hidden = position[None, :] > last_seen[:, None].clamp(min=0)
    heads = []
    for h in range(N):
        score = ((qn[:, h] @ kn[:, h].T + qr[:, h] @ kr.T) * scale).masked_fill(hidden, float("-inf"))
        heads.append(torch.softmax(score, -1) @ v[:, h])
    return project("o_proj", torch.cat(heads, -1))


def applies(c, name):
    if not is_latent(c):
        return False
    s = c.get("rope_scaling")
    if name == "latent_query_norm":
        return c["q_lora_rank"] is not None
    if name == "latent_key_value":
        return c["qk_nope_head_dim"] != c["v_head_dim"]
    if name == "yarn_amplitude":
        return s is not None and s["mscale"] != s["mscale_all_dim"]
    if name == "yarn_ramp":                       # Kimi's is a step
        return s is not None and s["beta_fast"] != s["beta_slow"]
    return s is not None if name.startswith("yarn") else True
