"""What the experts of a cadre_moe layer share and give back, from the formulae: rows in common, fusion, confidence.

    o_i = F_i(x), the neurons of F_i being the level's common ones, then the expert's own
    c_i = sigmoid(v_i . o_i)
    s_i = (W_q x) . (W_k o_i) / sqrt(d) + ln w_i + beta ln c_i
    y   = (sum_i w_i) * sum_i softmax(s)_i o_i

Used by oracle.py where a router has one of these members; holds the checkpoints that show them and the ways to get them wrong.
Shapes: T tokens, H hidden, C rows in common, I rows of an expert, K selected, D size of the fusion's queries and keys.
"""
import torch

import router_oracle

MEMBERS = ("shared_rows", "fusion", "confidence")

MUTATIONS = {
    "rows_common": "the rows in common left out",
    "rows_own": "an expert's own rows left out",
    "fusion": "the outputs weighed by the gate alone",
    "fusion_scale": "agreement not divided by sqrt(d)",
    "fusion_gate": "ln w left out of the scores",
    "fusion_mass": "the sum of the weights left out",
    "fusion_swapped": "queries from the output, keys from the token",
    "fusion_beta": "confidence left out of the scores",
    "fusion_logit": "the confidence's logit instead of its logarithm",
}


def applies(router, name):
    if name.startswith("rows_"):
        return bool(router.get("shared_rows"))
    fusion = router.get("fusion")
    if name in ("fusion_beta", "fusion_logit"):
        return bool(fusion and fusion.get("beta"))
    if name == "fusion_mass":  # sum 1 whatever the token
        return bool(fusion) and not (router.get("norm", "none") != "none" and router["scale"] == 1)
    return bool(fusion)


def has_head(router):
    return (router.get("confidence") or {}).get("type") == "head"


def needed(router):
    return any(router.get(member) for member in MEMBERS) and (bool(router.get("shared_rows") or router.get("fusion")) or has_head(router))


def rows_in_common(router, inner):
    rows = router.get("shared_rows") or 0
    return int(rows * inner + 0.5) if isinstance(rows, float) else rows


def level(name):
    """What stands before an expert's number: the common rows are named by it."""
    return name.split(".")[0] + "." if "." in name else ""


def expert(w, prefix, name, x, wrong):
    """x [T,H] -> o [T,H] of the expert of that name."""
    out = torch.zeros_like(x)
    if f"{prefix}experts.{name}.lora_A.weight" in w:
        return x @ w[f"{prefix}experts.{name}.lora_A.weight"].T @ w[f"{prefix}experts.{name}.lora_B.weight"].T
    for name, left_out in ((f"experts.{name}", "rows_own"), (f"experts.{level(name)}common", "rows_common")):
        if f"{prefix}{name}.up_proj.weight" not in w or left_out in wrong:
            continue
        gate, up, down = (w[f"{prefix}{name}.{n}_proj.weight"] for n in ("gate", "up", "down"))
        if "gate_up_swapped" in wrong:
            gate, up = up, gate
        z = x @ gate.T
        act = torch.nn.functional.gelu(z) if "gelu" in wrong else z * torch.sigmoid(z)
        out = out + (act * (x @ up.T)) @ down.T
    return out


heard = None  # a list: takes, layer by layer, how sure each token's experts are of their outputs, by the gate's weights [T]


def experts(w, prefix, router, x, ids, weight, wrong):
    """x [T,H], ids and weight [T,K] -> y [T,H]."""
    tokens, k = ids.shape
    o = torch.zeros(tokens, k, x.shape[1], dtype=x.dtype)
    log_c = torch.zeros(tokens, k, dtype=x.dtype)
    for t in range(tokens):
        for j in range(k):
            e = int(ids[t, j])
            if e < 0:
                continue
            e = router_oracle.expert_name(router, {0: 1, 1: 0}.get(e, e) if "expert_order" in wrong else e)
            o[t, j] = expert(w, prefix, e, x[t:t + 1], wrong)[0]
            if has_head(router):
                z = w[f"{prefix}experts.{e}.conf"] @ o[t, j]
                log_c[t, j] = z if "fusion_logit" in wrong else torch.log(torch.sigmoid(z))
    if heard is not None and router.get("confidence"):
        heard.append((weight * log_c.exp()).sum(1) / weight.sum(1))
    fusion = router.get("fusion")
    if not fusion or "fusion" in wrong:
        return (weight[:, :, None] * o).sum(1)
    wq, wk = w[prefix + "fusion.q"], w[prefix + "fusion.k"]
    if "fusion_swapped" in wrong:
        wq, wk = wk, wq
    s = torch.einsum("td,tkd->tk", x @ wq.T, o @ wk.T)
    s = s if "fusion_scale" in wrong else s / fusion["d"] ** 0.5
    if "fusion_gate" not in wrong:
        s = s + torch.log(weight)
    if "fusion_beta" not in wrong:
        s = s + fusion.get("beta", 0.0) * log_c
    mass = 1.0 if "fusion_mass" in wrong else weight.sum(1, keepdim=True)
    return mass * (torch.softmax(s, 1)[:, :, None] * o).sum(1)


# ---- checkpoints, in the manner of make_checkpoints.MODELS ----

MODELS = {
    # Two fifths of every expert's rows in common.
    "cadre_moe_rows": ("llama-chatml", 41, "cadre", dict(
        vocab_size=268, hidden_size=44, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
        rope_theta=10000.0, rms_norm_eps=1e-3, moe_intermediate_size=22, num_experts=7, num_experts_per_tok=3,
        shared_expert_intermediate_size=18,
        moe_router=dict(kind="flat", score="sigmoid", k=3, norm="sum", scale=1.3, weight="score", bias=False,
                        sel_bias=False, shared_rows=0.4))),
    # Fusion by agreement, gate and confidence; the weights do not sum to one.
    "cadre_moe_fusion": ("llama-chatml", 53, "cadre", dict(
        vocab_size=273, hidden_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=10,
        rope_theta=20000.0, rms_norm_eps=1e-3, moe_intermediate_size=19, num_experts=6, num_experts_per_tok=3,
        shared_expert_intermediate_size=0,
        moe_router=dict(kind="flat", score="softmax", k=3, norm="none", scale=1.5, weight="score", bias=False,
                        sel_bias=True, confidence=dict(type="head", action="report"), fusion=dict(d=9, beta=0.7)))),
    # Fusion by agreement and gate alone, of experts that share a fixed number of rows.
    "cadre_moe_fusion_rows": ("llama-chatml", 43, "cadre", dict(
        vocab_size=274, hidden_size=52, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=3, head_dim=8,
        rope_theta=50000.0, rms_norm_eps=5e-4, moe_intermediate_size=17, num_experts=5, num_experts_per_tok=2,
        shared_expert_intermediate_size=0,
        moe_router=dict(kind="flat", score="raw", k=2, norm="softmax", scale=1.0, weight="score", bias=True,
                        sel_bias=False, shared_rows=5, fusion=dict(d=16)))),
    # Rows in common per level of a two-stage router, but for the low-rank locals.
    "cadre_moe_rows_two_stage": ("llama-chatml", 45, "cadre", dict(
        vocab_size=275, hidden_size=44, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
        rope_theta=10000.0, rms_norm_eps=1e-3, moe_intermediate_size=10, num_experts=14, num_experts_per_tok=5,
        shared_expert_intermediate_size=0,
        moe_router=dict(kind="two_stage", n_global=2, n_domain=4, n_local=8, global_topk=1, k=2, k_local=1, mass="norm", rank=3,
                        shared_rows=4))),
}


def reshape(shapes, block, c):
    """Turns the shapes of plain experts into those of this router's."""
    router = c.get("moe_router") or {}
    H, inner = c["hidden_size"], c.get("moe_intermediate_size")
    rows = rows_in_common(router, inner)
    for j in range(c["num_experts"] if needed(router) else 0):
        e = f"{block}.experts.{j}"
        if rows:
            for name in ("gate", "up"):
                shapes[f"{e}.{name}_proj.weight"] = (inner - rows, H)
            shapes[f"{e}.down_proj.weight"] = (H, inner - rows)
        if has_head(router):
            shapes[f"{block}.experts.{router_oracle.expert_name(router, j)}.conf"] = (H,)
    levels = {level(router_oracle.expert_name(router, j)): None for j in range(c.get("num_experts") or 0)}
    for at in levels if rows else ():
        if at == "local." and router.get("rank"):
            continue
        for name in ("gate", "up"):
            shapes[f"{block}.experts.{at}common.{name}_proj.weight"] = (rows, H)
        shapes[f"{block}.experts.{at}common.down_proj.weight"] = (H, rows)
    if router.get("fusion"):
        for name in "qk":
            shapes[f"{block}.fusion.{name}"] = (router["fusion"]["d"], H)


def gain(part, fan_in):
    """Spreads for which agreement and confidence matter but do not decide alone; outputs are small, so keys are large."""
    return {"q": 1.0 / fan_in ** 0.5, "k": 10.0 / fan_in ** 0.5, "conf": 2.0}.get(part)
