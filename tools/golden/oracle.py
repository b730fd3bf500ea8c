"""A second, slow and plain forward pass over the tensors of a checkpoint, and the list of ways to get it wrong.

It serves three purposes in make_checkpoints.py:
  * it must agree with transformers on every family, so that the golden logits rest on two implementations;
  * in float64 it tells how far the float32 logits are from the truth, so that the data is known to be well conditioned;
  * with a mutation switched on it shows by how much each mistake moves the logits, so that no golden test can miss one.
For `cadre_moe`, which transformers does not know, it is the source of the golden logits.

Shapes: T tokens, H hidden, N query heads, M key/value heads, D head size, E experts, K selected, V vocabulary.
"""
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

import expert_oracle
import gates
import latent
import llama4
import router_oracle


class Model:
    """Tensors by their on-disk name plus the numbers of config.json that the forward pass needs."""

    def __init__(self, directory, dtype=torch.float32):
        directory = Path(directory)
        c = self.config = json.loads((directory / "config.json").read_text())
        self.w = {k: v.to(dtype) for k, v in load_file(directory / "model.safetensors").items()}
        self.w = llama4.plain_names(self.w) if c["model_type"] == "llama4_text" else self.w
        self.dtype = dtype
        self.family = c["model_type"]
        self.layers = c["num_hidden_layers"]
        self.heads = c["num_attention_heads"]
        self.kv_heads = c["num_key_value_heads"]
        self.head_dim = c.get("head_dim") or c["hidden_size"] // self.heads
        self.eps = c["rms_norm_eps"]
        self.theta = c["rope_theta"] if "rope_theta" in c else c["rope_parameters"]["rope_theta"]
        self.clip = c.get("clip_qkv")
        self.router = router_of(c)
        self.rotary = gates.rotary_dims(c, self.head_dim)
        self.block = "block_sparse_moe." if any(".block_sparse_moe." in t for t in self.w) else "mlp."

    def is_moe(self, layer):
        return any(name.startswith(f"model.layers.{layer}.") and ".experts." in name for name in self.w)

    def arrays(self):
        """The tensors as numpy arrays that share their memory, and so their changes."""
        return Arrays(self.w)

    def head(self):
        return self.w.get("lm_head.weight", self.w["model.embed_tokens.weight"])  # [V,H]


class Arrays:
    def __init__(self, tensors):
        self.tensors = tensors

    def __getitem__(self, name):
        return self.tensors[name].numpy()


def router_of(c):
    """The gate's rule as one description, whatever the family calls its fields."""
    if c["model_type"] == "llama":
        return None
    if latent.router_of(c):
        return latent.router_of(c)
    if c["model_type"] == "llama4_text":
        return llama4.router_of(c)
    if gates.router_of(c):
        return gates.router_of(c)
    if c["model_type"] == "cadre_moe":
        return dict(c["moe_router"])
    normalise = c["model_type"] == "mixtral" or c.get("norm_topk_prob", False)
    return {"score": "softmax", "k": c["num_experts_per_tok"], "norm": "sum" if normalise else "none",
            "scale": 1.0, "weight": "score", "bias": False, "sel_bias": False}


# Every mistake that a golden test must notice: name -> one sentence. `forward` below knows how to make each of them.
MUTATIONS = {
    "theta": "RoPE base 10 % larger",
    "theta_default": "RoPE base of 10000, whatever the config says",
    "rope_interleaved": "RoPE pairs 2j, 2j+1 instead of the half split, or the other way round",
    "eps_smaller": "RMSNorm epsilon a tenth",
    "eps_larger": "RMSNorm epsilon ten times",
    "eps_zero": "RMSNorm epsilon left out",
    "eps_qk_zero": "epsilon left out of the q/k norms only",
    "kv_position": "keys of every second page of 16 tokens rotated one position too far",
    "kv_chunk_position": "queries from token 7 on rotated one position too far",
    "causal_late": "a token does not see itself (but token 0 does)",
    "causal_early": "a token sees one token of the future",
    "attention_scale": "attention scores 10 % too large",
    "attention_scale_hidden": "attention scaled by hidden / heads instead of head_dim",
    "head_mapping": "query head h reads key head h mod M",
    "qk_norm": "q/k norms left out",
    "qk_norm_other": "q/k norm over one head instead of the whole vector, or the other way round",
    "qk_norm_swapped": "the weights of q norm and k norm exchanged",
    "bias": "biases of the attention projections left out",
    "bias_v": "bias of v left out",
    "clip": "clip_qkv left out",
    "clip_v": "clip_qkv left out for v only",
    "residual_attention": "residual around the attention of the last layer left out",
    "residual_mlp": "residual around the FFN of layer 0 left out",
    "norm_input": "input norm of layer 0 left out",
    "norm_post": "post-attention norm of the last layer left out",
    "norm_final": "final norm left out",
    "gelu": "GELU instead of SiLU",
    "gate_up_swapped": "gate and up projections exchanged",
    "topk_norm": "weights of the selected experts normalised where they should not be, or the other way round",
    "routed_scale": "routed weights 5 % too large",
    "k_plus": "one expert more",
    "k_minus": "one expert less",
    "expert_order": "two experts exchanged",
    "router_bias": "bias of the gate left out",
    "sel_bias": "selection bias left out",
    "sel_bias_weight": "selection bias also added to the weights",
    "score_other": "sigmoid instead of softmax scores, softmax instead of any other",
    "shared_gate": "sigmoid gate of the shared expert left out",
    "shared": "shared expert left out",
    "moe_input": "experts fed with the rows before the post-attention norm",
    "last_token_id": "embedding of the previous id for the last token",
} | expert_oracle.MUTATIONS | gates.MUTATIONS | latent.MUTATIONS | llama4.MUTATIONS | router_oracle.MUTATIONS


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rotate(x, positions, theta, interleaved, dims=None):
    """x [T,n,D] -> the same, each pair of the first `dims` turned by position * theta^(-2j/dims)."""
    if dims is not None and dims < x.shape[-1]:
        return torch.cat((rotate(x[..., :dims], positions, theta, interleaved), x[..., dims:]), -1)
    half = x.shape[-1] // 2
    exponent = torch.arange(0, half, dtype=torch.float64) * 2 / x.shape[-1]
    angle = positions.double()[:, None] * theta ** -exponent  # [T,D/2]
    cos, sin = (f(angle).to(x.dtype)[:, None, :] for f in (torch.cos, torch.sin))
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def qk_normalise(m, name, x, n, wrong, eps):
    """x [T,n*D]. OLMoE norms the whole vector, Qwen3 each head; other families have no such tensor."""
    other = "k_norm" if "q_norm" in name else "q_norm"
    weight = m.w.get(name)
    if weight is None or "qk_norm" in wrong:
        return x
    if "qk_norm_swapped" in wrong:
        swapped = m.w[name.replace("k_norm" if other == "q_norm" else "q_norm", other)]
        weight = swapped.repeat(-(-weight.numel() // swapped.numel()))[:weight.numel()]
    per_head = (weight.numel() == m.head_dim) != ("qk_norm_other" in wrong)
    eps = 0.0 if "eps_qk_zero" in wrong else eps
    if not per_head:
        return rms_norm(x, weight if weight.numel() == x.shape[-1] else weight.repeat(n), eps)
    rows = x.view(x.shape[0], n, m.head_dim)
    weight = weight if weight.numel() == m.head_dim else weight.view(n, m.head_dim)
    return rms_norm(rows, weight, eps).reshape(x.shape)


def attention(m, layer, x, wrong, eps, theta):
    """x [T,H], already normed -> [T,H]."""
    if latent.is_latent(m.config):
        return latent.attention(m, layer, x, wrong, theta)
    p = f"model.layers.{layer}.self_attn."
    tokens = x.shape[0]

    def project(name, rows, drop=False):
        y = rows @ m.w[f"{p}{name}_proj.weight"].T
        b = m.w.get(f"{p}{name}_proj.bias")
        return y if b is None or drop or "bias" in wrong else y + b

    q = qk_normalise(m, p + "q_norm.weight", project("q", x), m.heads, wrong, eps)
    k = qk_normalise(m, p + "k_norm.weight", project("k", x), m.kv_heads, wrong, eps)
    v = project("v", x, "bias_v" in wrong)
    if m.clip is not None and "clip" not in wrong:
        q, k = q.clamp(-m.clip, m.clip), k.clamp(-m.clip, m.clip)
        v = v if "clip_v" in wrong else v.clamp(-m.clip, m.clip)
    q, k, v = (t.view(tokens, -1, m.head_dim) for t in (q, k, v))
    position = torch.arange(tokens)
    key_position = position + (position // 16 % 2 if "kv_position" in wrong else 0)
    query_position = position + ((position >= 7).long() if "kv_chunk_position" in wrong else 0)
    dims = None if "rotary" in wrong else m.rotary
    if llama4.rotates(m.config, layer, wrong):
        interleaved = (m.family == "llama4_text") != ("rope_interleaved" in wrong)
        q = rotate(q, query_position, theta, interleaved, dims)
        k = rotate(k, key_position, theta, interleaved, dims)
    q, k = llama4.finish_heads(m.config, layer, q, k, wrong)

    scale = m.head_dim ** -0.5 * (1.1 if "attention_scale" in wrong else 1.0)
    if "attention_scale_hidden" in wrong:
        scale = (m.config["hidden_size"] // m.heads) ** -0.5
    last_seen = position + (-1 if "causal_late" in wrong else 1 if "causal_early" in wrong else 0)
    hidden = position[None, :] > last_seen[:, None].clamp(min=0)  # [T,T]
    hidden = hidden | llama4.unseen(m.config, layer, tokens, wrong)
    out = []
    for h in range(m.heads):
        kv = h % m.kv_heads if "head_mapping" in wrong else h // (m.heads // m.kv_heads)
        s = (q[:, h] @ k[:, kv].T * scale).masked_fill(hidden, float("-inf"))
        out.append(torch.softmax(s, -1) @ v[:, kv])
    return project("o", torch.cat(out, -1))


def ffn(m, names, x, wrong):
    gate, up, down = (m.w[n] for n in names)
    if "gate_up_swapped" in wrong:
        gate, up = up, gate
    act = torch.nn.functional.gelu if "gelu" in wrong else torch.nn.functional.silu
    return (act(x @ gate.T) * (x @ up.T)) @ down.T


def ffn_names(prefix, mixtral=False):
    if mixtral:
        return [f"{prefix}.{n}.weight" for n in ("w1", "w3", "w2")]
    return [f"{prefix}.{n}_proj.weight" for n in ("gate", "up", "down")]


def gate(m, prefix, x, wrong):
    """x [T,H] -> ids [T,K] in the order of selection, weights [T,K], gap [T]: how much better the last one selected is than the
    first one left out, relative to its value."""
    r = m.router
    z = x @ m.w[prefix + "gate.weight"].T
    if r["bias"] and "router_bias" not in wrong:
        z = z + m.w[prefix + "gate.bias"]
    kind = r["score"]
    if "score_other" in wrong:
        kind = {"softmax": "sigmoid", "sigmoid": "softmax", "raw": "softmax", "sqrtsoftplus": "softmax"}[kind]
    score = {"softmax": lambda: torch.softmax(z, -1), "sigmoid": lambda: torch.sigmoid(z), "raw": lambda: z,
             "sqrtsoftplus": lambda: torch.nn.functional.softplus(z).sqrt()}[kind]()
    chosen_by = score
    if r["sel_bias"] and "sel_bias" not in wrong:
        beside = "" if prefix.endswith("block_sparse_moe.") else "gate."
        chosen_by = score + m.w[prefix + beside + "e_score_correction_bias"]
    biased = chosen_by
    chosen_by, group_gap = gates.limit_groups(chosen_by, r, wrong)
    k = r["k"] + ("k_plus" in wrong) - ("k_minus" in wrong)
    order = torch.sort(chosen_by, dim=-1, descending=True, stable=True)
    ids = order.indices[:, :k]
    top = order.values
    gap = (top[:, k - 1] - top[:, k]) / top[:, k - 1].abs() if k < z.shape[-1] else torch.full((len(x),), 1e9)
    gap = torch.minimum(gap, group_gap)
    if r["weight"] == "one":
        weight = torch.ones_like(ids, dtype=x.dtype)
    else:
        weight = (biased if "sel_bias_weight" in wrong else score).gather(-1, ids)
    norm = r["norm"]
    if "topk_norm" in wrong:
        norm = "none" if norm != "none" else "sum"
    if norm == "sum":
        weight = weight / (weight.sum(-1, keepdim=True) + (0 if "norm_eps" in wrong else r.get("norm_eps", 0)))
    elif norm == "softmax":
        weight = torch.softmax(weight, -1)
    return ids, weight * r["scale"] * (1.05 if "routed_scale" in wrong else 1.0), gap


def moe(m, layer, x, wrong, trace):
    prefix = f"model.layers.{layer}." + m.block
    experts = sum(1 for t in m.w if t.startswith(prefix + "experts.")) // 3
    to_input = (m.router.get("apply") == "input") != ("apply" in wrong)
    if router_oracle.needed(m.router):
        got = router_oracle.gate(m.router, m.arrays(), prefix, layer, x.numpy(), m.context, wrong)
        ids, weight, gap = (torch.from_numpy(a) for a in got)
        experts = m.config["num_experts"]
    else:
        ids, weight, gap = gate(m, prefix, x, wrong)
    if trace is not None:
        trace["experts"].append(ids)
        trace["gap"].append(gap)
    y = torch.zeros_like(x)
    special = expert_oracle.needed(m.router)
    if special:
        y = expert_oracle.experts(m.w, prefix, m.router, x, ids, weight, wrong)
    for slot in range(0 if special else ids.shape[1]):
        for expert in ids[:, slot].unique().tolist():
            if expert < 0:
                continue
            rows = (ids[:, slot] == expert).nonzero()[:, 0]
            if expert >= experts:
                y[rows] += weight[rows, slot, None] * x[rows] * (0 if "identity" in wrong else 1)
                continue
            source = {0: 1, 1: 0}.get(expert, expert) if "expert_order" in wrong else expert
            name, w = f"{prefix}experts.{router_oracle.expert_name(m.router, source)}", weight[rows, slot, None]
            if name + ".lora_A.weight" in m.w:
                y[rows] += w * (x[rows] @ m.w[name + ".lora_A.weight"].T @ m.w[name + ".lora_B.weight"].T)
                continue
            names = ffn_names(name, m.block != "mlp.")
            y[rows] += ffn(m, names, w * x[rows], wrong) if to_input else w * ffn(m, names, x[rows], wrong)
    shared = prefix + ("shared_experts" if prefix + "shared_experts.up_proj.weight" in m.w else "shared_expert")
    if shared + ".up_proj.weight" in m.w and "shared" not in wrong:
        s = ffn(m, ffn_names(shared), x, wrong)
        g = m.w.get(prefix + "shared_expert_gate.weight")
        y = y + (s if g is None or "shared_gate" in wrong else torch.sigmoid(x @ g.T) * s)
    return y


@torch.no_grad()
def forward(m, ids, wrong=(), trace=None):
    """ids: list of T token ids -> logits [T,V]. `wrong` holds names of MUTATIONS."""
    wrong = {wrong} if isinstance(wrong, str) else set(wrong)
    eps = m.eps
    eps = eps / 10 if "eps_smaller" in wrong else eps * 10 if "eps_larger" in wrong else 0.0 if "eps_zero" in wrong else eps
    theta = m.theta * 1.1 if "theta" in wrong else 10000.0 if "theta_default" in wrong else m.theta
    ids = list(ids)
    if "last_token_id" in wrong:
        ids[-1] = ids[-2]
    m.context = {}
    x = m.w["model.embed_tokens.weight"][torch.tensor(ids)]
    last = m.layers - 1
    for layer in range(m.layers):
        p = f"model.layers.{layer}."

        def norm(name, rows, skip):
            return rows if skip else rms_norm(rows, m.w[p + name + ".weight"], eps)

        a = attention(m, layer, norm("input_layernorm", x, "norm_input" in wrong and layer == 0), wrong, eps, theta)
        x = a if "residual_attention" in wrong and layer == last else x + a
        n = norm("post_attention_layernorm", x, "norm_post" in wrong and layer == last)
        if m.is_moe(layer):
            f = moe(m, layer, x if "moe_input" in wrong else n, wrong, trace)
        else:
            f = ffn(m, ffn_names(p + "mlp"), n, wrong)
        x = f if "residual_mlp" in wrong and layer == 0 else x + f
    if "norm_final" not in wrong:
        x = rms_norm(x, m.w["model.norm.weight"], eps)
    return x @ m.head().T


def applies(m, name):
    """Whether a mutation changes anything by definition in this model: the others are checked, not assumed."""
    has = lambda part: any(part in t for t in m.w)
    r = m.router
    if name in router_oracle.MUTATIONS:
        return r is not None and router_oracle.needed(r) and bool(router_oracle.applies(r, name))
    if router_oracle.needed(r) and name in router_oracle.OTHERS:
        return router_oracle.OTHERS[name](r)
    if name in expert_oracle.MUTATIONS:
        return r is not None and expert_oracle.applies(r, name)
    if name in latent.MUTATIONS:
        return latent.applies(m.config, name)
    if latent.is_latent(m.config) and name in ("head_mapping", "attention_scale_hidden", "rotary"):
        return False
    if name in llama4.MUTATIONS:
        return m.family == "llama4_text"
    if name in gates.MUTATIONS:
        return gates.applies(r, name, m.rotary, m.head_dim)
    if name in ("qk_norm", "qk_norm_other", "qk_norm_swapped", "eps_qk_zero"):
        return has("q_norm")
    if name in ("bias", "bias_v"):
        return has("v_proj.bias") or (name == "bias" and has("kv_a_proj_with_mqa.bias"))
    if name in ("clip", "clip_v"):
        return m.clip is not None
    if name == "theta_default":
        return m.theta != 10000.0
    if name == "attention_scale_hidden":
        return m.head_dim != m.config["hidden_size"] // m.heads
    if name in ("shared", "shared_gate"):
        return has("shared_expert_gate") if name == "shared_gate" else has("shared_expert.") or has("shared_experts.")
    if name in ("topk_norm", "routed_scale", "k_plus", "k_minus", "expert_order", "router_bias", "sel_bias",
                "sel_bias_weight", "score_other", "moe_input"):
        if r is None:
            return False
        experts = sum(1 for t in m.w if ".experts." in t and ("w1." in t or "gate_proj" in t) and "layers.1." in t)
        return {"k_plus": r["k"] < experts + r.get("zero_experts", 0), "router_bias": r["bias"], "sel_bias": r["sel_bias"],
                "sel_bias_weight": r["sel_bias"], "expert_order": r["weight"] != "one" or r["k"] < experts,
                "score_other": r["weight"] != "one" and r["norm"] != "softmax"}.get(name, True)
    return True
