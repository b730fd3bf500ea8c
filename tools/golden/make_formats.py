#!/usr/bin/env python3
"""Makes the checkpoints of GPT-OSS and of the block formats: make_checkpoints.py's work with formats_oracle.py for an oracle.

The reference is transformers in float32 with weights that its own and torch's decoders expanded; the oracle expands them bit by bit.

Run: make_formats.py [--out DIR] [--only NAME].
"""
import json
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import formats_oracle
import latent
import make_checkpoints as mc
import tiny_tokenizers

YARN = dict(rope_type="yarn", factor=8.0, beta_fast=4.0, beta_slow=1.0, truncate=False, original_max_position_embeddings=64)
GPT_OSS = dict(model_type="gpt_oss", architectures=["GptOssForCausalLM"], rope_theta=1000.0, rope_scaling=YARN,
               attention_bias=True, hidden_act="silu", max_position_embeddings=512, attention_dropout=0.0,
               tie_word_embeddings=False, initial_context_length=64)
MODELS = {
    "gpt_oss": ("llama-chatml", 45, "gpt_oss", GPT_OSS | dict(
        vocab_size=274, hidden_size=44, intermediate_size=20, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=12, rms_norm_eps=1e-3, num_local_experts=5, num_experts_per_tok=2, swiglu_limit=2.0,
        sliding_window=9, layer_types=["sliding_attention", "full_attention", "sliding_attention"], torch_dtype="bfloat16",
        experts_per_token=2)),
    "gpt_oss_mxfp4": ("llama-chatml", 42, "gpt_oss", GPT_OSS | dict(
        vocab_size=277, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=14, rms_norm_eps=3e-4, num_local_experts=5, num_experts_per_tok=2,
        sliding_window=21, torch_dtype="bfloat16",
        quantization_config=dict(quant_method="mxfp4", modules_to_not_convert=[
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]))),
    # Qwen3 as it is published in FP8, with blocks small enough that a tiny matrix has several and a cut one at each edge.
    "qwen3_moe_fp8": ("qwen", 43, "fp8", dict(
        model_type="qwen3_moe", architectures=["Qwen3MoeForCausalLM"], hidden_act="silu", max_position_embeddings=256,
        attention_dropout=0.0, tie_word_embeddings=False, vocab_size=279, hidden_size=72, intermediate_size=52,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=20, rope_theta=100000.0,
        rms_norm_eps=1e-3, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=40, norm_topk_prob=True,
        mlp_only_layers=[0], decoder_sparse_step=1, torch_dtype="bfloat16", attention_bias=False,
        quantization_config=dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic", weight_block_size=[32, 32],
                                 modules_to_not_convert=["lm_head", "model.layers.1.mlp.gate"]))),
    # DeepSeek-V3 as published, small: latent attention, groups, dense layer, shared expert, everything but the gates in FP8.
    "deepseek_v3_fp8": ("llama-chatml", 44, "fp8", mc.MODELS["deepseek_v3"][3] | dict(
        architectures=["DeepseekV3ForCausalLM"], hidden_act="silu", attention_dropout=0.0, tie_word_embeddings=False,
        torch_dtype="bfloat16", quantization_config=dict(
            quant_method="fp8", fmt="e4m3", activation_scheme="dynamic", weight_block_size=[16, 16]))),
    # DeepSeek-V3 as it is published: everything but norms, gate and embeddings in blocks, kv_b among them.
    "deepseek_v3_fp8": ("qwen", 61, "fp8", {k: v for k, v in latent.MODELS["deepseek_v3"][3].items()} | dict(
        architectures=["DeepseekV3ForCausalLM"], hidden_act="silu", attention_dropout=0.0, tie_word_embeddings=False,
        torch_dtype="float32", hidden_size=48, moe_intermediate_size=20, kv_lora_rank=36,
        quantization_config=dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic", weight_block_size=[16, 16]))),
}


def gpt_oss_shapes(c):
    H, E, I, D = c["hidden_size"], c["num_local_experts"], c["intermediate_size"], c["head_dim"]
    out = {"model.embed_tokens.weight": (c["vocab_size"], H), "model.norm.weight": (H,), "lm_head.weight": (c["vocab_size"], H)}
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        out[p + "input_layernorm.weight"] = out[p + "post_attention_layernorm.weight"] = (H,)
        for n, rows, cols in (("q", c["num_attention_heads"] * D, H), ("k", c["num_key_value_heads"] * D, H),
                              ("v", c["num_key_value_heads"] * D, H), ("o", H, c["num_attention_heads"] * D)):
            out[f"{p}self_attn.{n}_proj.weight"], out[f"{p}self_attn.{n}_proj.bias"] = (rows, cols), (rows,)
        out[p + "self_attn.sinks"] = (c["num_attention_heads"],)
        out[p + "mlp.router.weight"], out[p + "mlp.router.bias"] = (E, H), (E,)
        out[p + "mlp.experts.gate_up_proj"], out[p + "mlp.experts.gate_up_proj_bias"] = (E, H, 2 * I), (E, 2 * I)
        out[p + "mlp.experts.down_proj"], out[p + "mlp.experts.down_proj_bias"] = (E, I, H), (E, H)
    return out


def gpt_oss_draw(name, shape, c, seed):
    """Values that reach both clamps, biases and sinks of a size that shows."""
    z = torch.from_numpy(mc.np.random.default_rng([seed, mc.zlib.crc32(name.encode())]).standard_normal(shape)).float()
    part = name.rsplit(".", 1)[-1] if not name.endswith(("weight", "bias")) or "_bias" in name else name.rsplit(".", 2)[-2]
    if "norm" in part:
        return (1 + 0.3 * z).abs()
    if part == "sinks":
        return 0.5 + z
    if name.endswith("bias"):
        return {"down_proj_bias": 2 * mc.STREAM, "o_proj": mc.STREAM, "gate_up_proj_bias": 0.7}.get(part, 0.4) * z
    gain = {"embed_tokens": mc.STREAM * shape[-1] ** 0.5, "lm_head": 1.2, "q_proj": 1.3, "k_proj": 1.3, "v_proj": 1.0,
            "o_proj": 2 * mc.STREAM, "router": 1.5, "gate_up_proj": 3.0, "down_proj": 0.8 * mc.STREAM}[part]
    if "swiglu_limit" in c and part in ("gate_up_proj", "down_proj"):
        gain *= 0.5 if part == "gate_up_proj" else 3
    return gain / (shape[-2] if part in ("gate_up_proj", "down_proj") else shape[-1]) ** 0.5 * z


def pack_mxfp4(w):
    """w [E, K, N] as transformers holds it -> blocks u8 [E, N, K/32, 16], scales u8 [E, N, K/32]."""
    grid = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    rows = w.transpose(1, 2).reshape(w.shape[0], w.shape[2], -1, 32)
    power = torch.floor(torch.log2(rows.abs().amax(-1))) - 2
    scaled = rows / torch.exp2(power)[..., None]
    code = (scaled.abs()[..., None] - grid).abs().argmin(-1) + 8 * (scaled < 0)
    return (code[..., 0::2] | code[..., 1::2] << 4).to(torch.uint8).contiguous(), (power + 127).to(torch.uint8)


def pack_fp8(w, block):
    """w [N, K] -> codes float8_e4m3fn [N, K], scales f32 [ceil(N/block), ceil(K/block)]."""
    rows, cols = (-(-n // block) for n in w.shape)
    scales = torch.stack([torch.stack([w[r * block:(r + 1) * block, k * block:(k + 1) * block].abs().max()
                                       for k in range(cols)]) for r in range(rows)]) / 448
    scales = scales * torch.logspace(-0.2, 3, rows * cols).view(rows, cols)  # so wide that subnormal numbers count
    full = scales.repeat_interleave(block, 0)[:w.shape[0]].repeat_interleave(block, 1)[:, :w.shape[1]]
    return (w / full).clamp(-448, 448).to(torch.float8_e4m3fn), scales.float().contiguous()


def expanded(tensors, block):
    """By torch's and transformers' own decoders, under the names and in the layout of an unquantised checkpoint."""
    out = dict(tensors)
    for name in tensors:
        if name.endswith("_scale_inv"):
            base, scales = name.removesuffix("_scale_inv"), out.pop(name).float()
            w = out[base].float()
            full = scales.repeat_interleave(block, 0)[:w.shape[0]].repeat_interleave(block, 1)[:, :w.shape[1]]
            out[base] = w * full
        elif name.endswith("_blocks"):
            base = name.removesuffix("_blocks")
            scales = out.pop(base + "_scales")
            out[base] = convert_moe_packed_tensors(out.pop(name), scales, dtype=torch.float32).contiguous()
    return {n: t.float() for n, t in out.items()}


def quantise(tensors, c):
    q = c.get("quantization_config")
    plain = {n: t.bfloat16() for n, t in tensors.items()}
    if not q:
        return plain, 0
    if q["quant_method"] == "mxfp4":
        for name in [n for n in tensors if n.endswith(("gate_up_proj", "down_proj")) and ".experts." in n]:
            del plain[name]
            plain[name + "_blocks"], plain[name + "_scales"] = pack_mxfp4(tensors[name])
        return plain, 0
    block = q["weight_block_size"][0]
    for name in [n for n in tensors if n.endswith(("_proj.weight", "_proj_with_mqa.weight"))]:
        plain[name], scales = pack_fp8(tensors[name], block)
        plain[name + "_scale_inv"] = scales if "self_attn" in name else scales.bfloat16()  # both are published
    return plain, block


def write_model(name, directory):
    kind, seed, style, c = MODELS[name]
    tokenizer, bos, eos = tiny_tokenizers.write(directory, kind)
    c = c | {"bos_token_id": bos, "eos_token_id": eos[0] if len(eos) == 1 else eos}
    assert tokenizer.get_vocab_size() <= c["vocab_size"]
    (directory / "config.json").write_text(json.dumps(c, indent=2) + "\n")
    tensors = {n: gpt_oss_draw(n, s, c, seed) for n, s in gpt_oss_shapes(c).items()} if style == "gpt_oss" else mc.weights(c, seed)
    tensors, block = quantise({n: t.contiguous() for n, t in tensors.items()}, c)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    generation = {"bos_token_id": bos, "do_sample": False, "eos_token_id": c["eos_token_id"],
                  "transformers_version": transformers.__version__}
    (directory / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    plain = {k: v for k, v in c.items() if k != "quantization_config"} | {"torch_dtype": "float32"}
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "config.json").write_text(json.dumps(plain))
        save_file(expanded(tensors, block), Path(scratch) / "model.safetensors", metadata={"format": "pt"})
        model = mc.load_reference(scratch)
    return lambda ids: mc.reference_logits(model, ids)


if __name__ == "__main__":
    mc.oracle, mc.MODELS, mc.write_model = formats_oracle, MODELS, write_model
    mc.same_as_published = lambda *_: None
    mc.attention_spread = lambda *_: float("nan")
    raise SystemExit(mc.main())
