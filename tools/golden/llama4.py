"""Llama-4's text model for make_checkpoints.py and oracle.py: its checkpoint, its tensors under the names of the other families, and
what its attention does differently, with the mistakes to make in it.
"""
import torch

MODELS = {
    # Layers 1 and 3 have experts; layers 1 and 2 do not rotate and see everything, the others keep to chunks of 12 tokens.
    "llama4_text": ("llama", 51, "published", dict(
        model_type="llama4_text", vocab_size=271, hidden_size=40, intermediate_size=18, intermediate_size_mlp=30,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=10, rope_theta=20000.0, rms_norm_eps=1e-3,
        num_local_experts=5, num_experts_per_tok=1, interleave_moe_layer_step=2, no_rope_layers=[1, 0, 0, 1],
        attention_chunk_size=12, attn_temperature_tuning=True, floor_scale=5, attn_scale=0.4, use_qk_norm=True,
        attention_bias=False)),
}
CLASSES = {"llama4_text": "Llama4ForCausalLM"}
WRAPPED = "llama4"      # the same as published: text_config inside, tensors under language_model., a vision tensor beside

MUTATIONS = {
    "no_rope": "all layers rotated",
    "l2_norm": "q/k norms without weights left out",
    "l2_everywhere": "q/k norms without weights in the layers without rotation too",
    "chunk": "chunks left out: all layers see everything",
    "temper": "queries of layers without rotation not sharpened with position",
    "temper_off_by_one": "queries sharpened by the position before",
}


def router_of(c):
    return {"score": "sigmoid", "k": 1, "norm": "none", "scale": 1.0, "weight": "score", "bias": False, "sel_bias": False,
            "apply": "input"}


def shapes(c):
    H, V, I = c["hidden_size"], c["vocab_size"], c["intermediate_size"]
    Q, G = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    out = {"model.embed_tokens.weight": (V, H)}
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        out[p + "input_layernorm.weight"] = (H,)
        for name, rows, cols in (("q", Q, H), ("k", G, H), ("v", G, H), ("o", H, Q)):
            out[f"{p}self_attn.{name}_proj.weight"] = (rows, cols)
        out[p + "post_attention_layernorm.weight"] = (H,)
        block = p + "feed_forward."
        moe = (i + 1) % c["interleave_moe_layer_step"] == 0
        if moe:
            E = c["num_local_experts"]
            out[block + "router.weight"] = (E, H)
            out[block + "experts.gate_up_proj"] = (E, H, 2 * I)
            out[block + "experts.down_proj"] = (E, I, H)
        inner, where = (I, "shared_expert.") if moe else (c["intermediate_size_mlp"], "")
        for name, shape in (("gate", (inner, H)), ("up", (inner, H)), ("down", (H, inner))):
            out[f"{block}{where}{name}_proj.weight"] = shape
    out["model.norm.weight"] = (H,)
    out["lm_head.weight"] = (V, H)
    return out


def plain_names(tensors):
    """Fused and transposed experts as one matrix each, and the names of the other families."""
    out = {}
    for name, t in tensors.items():
        name = name.replace(".feed_forward.", ".mlp.").replace("mlp.router.", "mlp.gate.")
        if name.endswith("experts.gate_up_proj"):
            for j, both in enumerate(t):
                gate, up = both.T.chunk(2, 0)
                out[name.replace("gate_up_proj", f"{j}.gate_proj.weight")] = gate
                out[name.replace("gate_up_proj", f"{j}.up_proj.weight")] = up
        elif name.endswith("experts.down_proj"):
            for j, down in enumerate(t):
                out[name.replace("down_proj", f"{j}.down_proj.weight")] = down.T
        else:
            out[name] = t
    return out


def rotates(c, layer, wrong):
    return c["model_type"] != "llama4_text" or "no_rope" in wrong or bool(c["no_rope_layers"][layer])


def finish_heads(c, layer, q, k, wrong):
    """q, k [T,n,D], rotated where the layer rotates."""
    if c["model_type"] != "llama4_text":
        return q, k
    rotated = bool(c["no_rope_layers"][layer])
    if (rotated or "l2_everywhere" in wrong) and "l2_norm" not in wrong:
        q, k = (t * torch.rsqrt(t.pow(2).mean(-1, keepdim=True) + c["rms_norm_eps"]) for t in (q, k))
    if not rotated and "temper" not in wrong:
        past = torch.arange(len(q), dtype=q.dtype) + (0 if "temper_off_by_one" in wrong else 1)
        q = q * (torch.log1p(torch.floor(past / c["floor_scale"])) * c["attn_scale"] + 1)[:, None, None]
    return q, k


def unseen(c, layer, tokens, wrong):
    """[T,T]: what chunks hide."""
    if c["model_type"] != "llama4_text" or "chunk" in wrong or not c["no_rope_layers"][layer]:
        return torch.zeros(tokens, tokens, dtype=torch.bool)
    chunk = torch.arange(tokens) // c["attention_chunk_size"]
    return chunk[None, :] != chunk[:, None]
