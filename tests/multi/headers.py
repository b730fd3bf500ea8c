"""headers.py - checkpoints that have headers and no weights: files of the right length with holes where the numbers would be."""

import json
import struct
from pathlib import Path

BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1}


def write(folder, config, tensors, shard_bytes):
    """tensors: (name, dtype, shape). Files of about shard_bytes and an index, like a release."""
    folder = Path(folder)
    shards, used = [[]], 0
    for name, dtype, shape in tensors:
        size = BYTES[dtype]
        for n in shape:
            size *= n
        if used and used + size > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append((name, dtype, shape, used, used + size))
        used += size
    index = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        header = {n: {"dtype": d, "shape": s, "data_offsets": [a, b]} for n, d, s, a, b in shard}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(folder / file, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text)
            f.truncate(8 + len(text) + shard[-1][4])
        index.update({n: file for n, *_ in shard})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(config))
    return len(shards), len(index)


def deepseek_v3(fp8):
    """The shapes of DeepSeek-V3: as published, in FP8 blocks of 128 x 128 with their scales, or as BF16; and its
    multi-token-prediction layer."""
    H, V, L, DENSE, E, I, DENSE_I = 7168, 129280, 61, 3, 256, 2048, 18432
    heads, q_rank, kv_rank, nope, rope, value = 128, 1536, 512, 128, 64, 128
    config = {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": H, "vocab_size": V,
        "num_hidden_layers": L, "first_k_dense_replace": DENSE, "n_routed_experts": E, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "moe_intermediate_size": I, "intermediate_size": DENSE_I, "n_group": 8, "topk_group": 4,
        "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True, "routed_scaling_factor": 2.5,
        "num_attention_heads": heads, "num_key_value_heads": heads, "q_lora_rank": q_rank, "kv_lora_rank": kv_rank,
        "qk_nope_head_dim": nope, "qk_rope_head_dim": rope, "v_head_dim": value, "rms_norm_eps": 1e-6, "rope_theta": 10000,
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1,
                         "mscale": 1.0, "mscale_all_dim": 1.0},
        "max_position_embeddings": 163840, "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "attention_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02, "moe_layer_freq": 1,
        "num_nextn_predict_layers": 1, "ep_size": 1, "use_cache": True, "bos_token_id": 0, "eos_token_id": 1,
    }
    if fp8:
        config["quantization_config"] = {
            "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}
    tensors = [("model.embed_tokens.weight", "BF16", [V, H]), ("lm_head.weight", "BF16", [V, H]), ("model.norm.weight", "BF16", [H])]
    parameters = 2 * V * H + H

    def matrix(name, rows, cols):
        tensors.append((name + ".weight", "F8_E4M3" if fp8 else "BF16", [rows, cols]))
        if fp8:
            tensors.append((name + ".weight_scale_inv", "F32", [(rows + 127) // 128, (cols + 127) // 128]))
        return rows * cols

    def ffn(prefix, inner):
        return sum(matrix(prefix + n, *shape) for n, shape in (("gate_proj", (inner, H)), ("up_proj", (inner, H)), ("down_proj", (H, inner))))

    for i in range(L + 1):
        at, n = f"model.layers.{i}.", 0
        for name, size in (("input_layernorm", H), ("post_attention_layernorm", H), ("self_attn.q_a_layernorm", q_rank),
                           ("self_attn.kv_a_layernorm", kv_rank)):
            tensors.append((at + name + ".weight", "BF16", [size]))
            n += size
        n += matrix(at + "self_attn.q_a_proj", q_rank, H)
        n += matrix(at + "self_attn.q_b_proj", heads * (nope + rope), q_rank)
        n += matrix(at + "self_attn.kv_a_proj_with_mqa", kv_rank + rope, H)
        n += matrix(at + "self_attn.kv_b_proj", heads * (nope + value), kv_rank)
        n += matrix(at + "self_attn.o_proj", H, heads * value)
        if i < DENSE:
            n += ffn(at + "mlp.", DENSE_I)
        else:
            tensors.append((at + "mlp.gate.weight", "BF16", [E, H]))
            tensors.append((at + "mlp.gate.e_score_correction_bias", "F32", [E]))
            n += E * H + E + ffn(at + "mlp.shared_experts.", I)
            n += sum(ffn(at + f"mlp.experts.{e}.", I) for e in range(E))
        if i < L:
            parameters += n
        else:
            tensors.append((at + "eh_proj.weight", "BF16", [H, 2 * H]))
    return config, tensors, parameters
