"""Checkpoints for the flat gates beyond softmax, and what the oracle knows of them: the rule of each family as one description,
the choice under a group limit, and the mistakes to make in it. Used by make_checkpoints.py and oracle.py.
"""
import torch

CADRE = dict(vocab_size=270, hidden_size=44, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=10,
             rope_theta=10000.0, rms_norm_eps=1e-3, shared_expert_intermediate_size=0)

# As MODELS of make_checkpoints.py: name -> tokenizer kind, seed, style, configuration.
MODELS = {
    # GLM-4.5 with everything: q/k norms, biases, groups, a dense layer first, two shared experts, half of a head rotated.
    "glm4_moe": ("qwen", 31, "published", dict(
        model_type="glm4_moe", vocab_size=281, hidden_size=40, intermediate_size=36, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=12, rope_theta=1000000.0, rms_norm_eps=1e-3,
        partial_rotary_factor=0.5, attention_bias=True, use_qk_norm=True, n_routed_experts=8, num_experts_per_tok=3,
        n_group=4, topk_group=2, norm_topk_prob=True, routed_scaling_factor=1.8, n_shared_experts=2,
        moe_intermediate_size=18, first_k_dense_replace=1, num_nextn_predict_layers=1)),
    # GLM-4.5-Air's way: neither q/k norms nor groups; weights not normalised.
    "glm4_moe_plain": ("qwen", 32, "transformers", dict(
        model_type="glm4_moe", vocab_size=276, hidden_size=44, intermediate_size=30, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=10, rope_theta=10000.0, rms_norm_eps=1e-5,
        partial_rotary_factor=0.6, attention_bias=False, use_qk_norm=False, n_routed_experts=7, num_experts_per_tok=2,
        n_group=1, topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.3, n_shared_experts=1,
        moe_intermediate_size=21, first_k_dense_replace=0)),
    "minimax_m2": ("olmoe", 33, "published", dict(
        model_type="minimax_m2", vocab_size=279, hidden_size=40, intermediate_size=22, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=12, rotary_dim=8, rope_theta=5000000.0, rms_norm_eps=1e-3,
        num_local_experts=9, num_experts_per_tok=4, scoring_func="sigmoid", use_routing_bias=True, use_qk_norm=True,
        qk_norm_type="per_layer", sliding_window=None, shared_intermediate_size=0, attn_type_list=[1, 1],
        num_mtp_modules=3, use_mtp=True, mtp_transformer_layers=1, layernorm_full_attention_beta=1.0,
        layernorm_mlp_beta=1.0)),
    "cadre_moe_groups": ("llama-chatml", 41, "cadre", CADRE | dict(
        moe_intermediate_size=19, num_experts=12, num_experts_per_tok=4, shared_expert_intermediate_size=19,
        moe_router=dict(kind="flat", score="sigmoid", k=4, norm="sum", norm_eps=1e-20, scale=2.5, weight="score", bias=False,
                        sel_bias=True, groups=dict(rule="top2sum", n=4, topk=2, fill="-inf")))),
    "cadre_moe_groups_zero": ("llama-chatml", 42, "cadre", CADRE | dict(
        moe_intermediate_size=19, num_experts=10, num_experts_per_tok=3,
        moe_router=dict(kind="flat", score="sigmoid", k=3, norm="sum", norm_eps=0.25, scale=2.0, weight="score", bias=True,
                        sel_bias=True, groups=dict(rule="top2sum", n=5, topk=3, fill="zero")))),
    "cadre_moe_groups_max": ("llama-chatml", 43, "cadre", CADRE | dict(
        moe_intermediate_size=21, num_experts=9, num_experts_per_tok=2,
        moe_router=dict(kind="flat", score="softmax", k=2, norm="none", scale=3.0, weight="score", bias=False,
                        sel_bias=False, groups=dict(rule="max", n=3, topk=1)))),
    "cadre_moe_identity": ("llama-chatml", 44, "cadre", CADRE | dict(
        moe_intermediate_size=23, num_experts=5, num_experts_per_tok=3,
        moe_router=dict(kind="flat", score="softmax", k=3, norm="none", scale=2.0, weight="score", bias=False,
                        sel_bias=True, zero_experts=3))),
    "cadre_moe_input": ("llama-chatml", 45, "cadre", CADRE | dict(
        moe_intermediate_size=23, num_experts=5, num_experts_per_tok=1, shared_expert_intermediate_size=20,
        moe_router=dict(kind="flat", score="sigmoid", k=1, norm="none", scale=1.0, weight="score", bias=False,
                        sel_bias=False, apply="input"))),
    "cadre_moe_softplus": ("llama-chatml", 46, "cadre", CADRE | dict(
        moe_intermediate_size=22, num_experts=6, num_experts_per_tok=3,
        moe_router=dict(kind="flat", score="sqrtsoftplus", k=3, norm="sum", norm_eps=0.5, scale=1.5, weight="score", bias=False,
                        sel_bias=True))),
}

CLASSES = {"glm4_moe": "Glm4MoeForCausalLM", "minimax_m2": "MiniMaxM2ForCausalLM"}

MUTATIONS = {
    "groups": "group limit left out",
    "group_fill": "experts outside the chosen groups get the score zero instead of none, or the other way round",
    "group_score": "groups scored by their best instead of the sum of the two best, or the other way round",
    "norm_eps": "epsilon of the normalisation left out",
    "identity": "identity experts give nothing",
    "apply": "the weight multiplies the expert's output instead of its input, or the other way round",
    "rotary": "the whole head rotated instead of a part",
}


def router_of(c):
    """The rule of a published family in the words of cadre_moe's moe_router, or None for those that oracle.py knows itself."""
    flat = {"score": "sigmoid", "k": c.get("num_experts_per_tok"), "norm": "sum", "scale": 1.0, "weight": "score",
            "bias": False, "sel_bias": True}
    if c["model_type"] == "minimax_m2":
        return flat
    if c["model_type"] == "glm4_moe":
        flat |= {"norm": "sum" if c["norm_topk_prob"] else "none", "norm_eps": 1e-20, "scale": c["routed_scaling_factor"]}
        if c["topk_group"] < c["n_group"]:
            flat["groups"] = {"rule": "top2sum", "n": c["n_group"], "topk": c["topk_group"], "fill": "-inf"}
        return flat
    return None


def rotary_dims(c, head_dim):
    factor = c.get("partial_rotary_factor") or (c.get("rope_parameters") or {}).get("partial_rotary_factor") or 1.0
    return c.get("rotary_dim") or int(head_dim * factor)


def applies(r, name, dims, head_dim):
    if name == "rotary":
        return dims != head_dim
    if r is None:
        return False
    groups = r.get("groups")
    if name == "group_score":                     # with one group of the best, its best member is in either way of counting
        return groups is not None
    return {"groups": groups is not None, "group_fill": groups is not None and r["score"] != "softmax",
            "norm_eps": r.get("norm_eps", 0) > 1e-6, "identity": r.get("zero_experts", 0) > 0,
            "apply": r.get("apply") == "input"}[name]


def limit_groups(choice, r, wrong):
    """choice [T,E] -> the same with what the group rule does to it, and gap [T]: between the last group in and the first out."""
    groups = r.get("groups")
    if groups is None or "groups" in wrong:
        return choice, torch.full((len(choice),), 1e9)
    by_group = choice.view(len(choice), groups["n"], -1)
    rule = groups["rule"]
    if "group_score" in wrong:
        rule = {"max": "top2sum", "top2sum": "max"}[rule]
    best = by_group.sort(-1, descending=True).values
    score = best[..., 0] if rule == "max" else best[..., 0] + best[..., 1]
    order = torch.sort(score, dim=-1, descending=True, stable=True)
    n = groups["topk"]
    gap = (order.values[:, n - 1] - order.values[:, n]) / order.values[:, n - 1].abs()
    out = torch.ones_like(score, dtype=torch.bool).scatter(1, order.indices[:, :n], False)
    fill = groups.get("fill", "-inf")
    if "group_fill" in wrong:
        fill = {"-inf": "zero", "zero": "-inf"}[fill]
    value = 0.0 if fill == "zero" else float("-inf")
    return by_group.masked_fill(out[..., None], value).reshape(choice.shape), gap
