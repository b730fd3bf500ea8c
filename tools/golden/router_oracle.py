"""Routers beyond a plain flat gate, in numpy, from the formulae of docs/ROUTERS.md: two stages, trees, history, segments,
confidence, top-p. Slow and plain; used by oracle.py where a moe_router asks for one of them.

Holds the checkpoints that show them (MODELS) and the ways to get them wrong (MUTATIONS).
Shapes: T tokens, H hidden, W width of the first level, K pairs of a token at most (unused ones are expert -1, weight 0).
"""
import numpy as np

MUTATIONS = {
    "mass_other": "domains weighed by norm instead of product, or the other way round",
    "global_weight": "the chosen globals counted fully",
    "local_gate": "the locals' sigmoid left out",
    "local_softmax": "the locals weighed by a softmax over their domain's",
    "domain_rows": "domain d attached to global d mod n_global",
    "local_rows": "local f attached to domain f mod n_domain",
    "level_logits": "paths scored by logits instead of log probabilities",
    "leaf_weights": "leaves weighed by their path's probability, not renormalised",
    "leaf_order": "leaves numbered with the last level slowest",
    "search_other": "greedy instead of beam or exact search, exact instead of greedy",
    "node_gates": "every node's gate taken from the first node of its level",
    "history": "history left out",
    "history_rho": "rho and 1 - rho exchanged",
    "history_late": "the average includes the token's own probabilities",
    "history_context": "the average takes the probabilities with the context added",
    "history_layer": "history carried over from the layer before",
    "gru_before": "the context of the layer before",
    "gru_reset": "the reset gate applied before the product",
    "gru_update": "the update gate the other way round",
    "gru_start": "the recurrence begins anew in every layer",
    "segment": "segments left out",
    "segment_own": "the segment's own mean instead of the one before",
    "segment_all": "the mean over everything before the segment",
    "segment_domain": "domains decided per token although the segment decides",
    "confidence": "low confidence without consequence",
    "confidence_other": "margin instead of entropy or the other way round",
    "confidence_above": "widened where confidence is high",
    "top_p": "k_max experts whatever their probabilities",
    "top_p_crossing": "the expert that crosses P left out",
    "top_p_norm": "the chosen weights divided by their sum",
}


def applies(router, name):
    kind, h, c = router.get("kind"), router.get("history") or {}, router.get("confidence") or {}
    tree, two = kind == "tree", kind == "two_stage"
    ema, layer = h.get("mode") == "ema", h.get("mode") == "layer"
    return {
        "mass_other": two and router["k"] < router["n_domain"], "global_weight": two, "local_gate": two and router.get("n_local"),
        "local_softmax": two and router.get("n_local"), "domain_rows": two and router["n_global"] > 1,
        "local_rows": two and router.get("n_local", 0) > router["n_domain"], "leaf_order": tree, "search_other": tree,
        # a constant of the level, where all nodes have the same gate
        "level_logits": tree and not router.get("shared_level_gates") and router["search"] != "greedy",
        "leaf_weights": tree, "node_gates": tree and not router.get("shared_level_gates"), "history": bool(h),
        "history_rho": ema and h["rho"] != 0.5, "history_late": ema, "history_context": ema, "history_layer": ema,
        "gru_before": layer, "gru_reset": layer, "gru_update": layer, "gru_start": layer, "segment": bool(router.get("segment")),
        "segment_own": bool(router.get("segment")), "segment_all": bool(router.get("segment")),
        "segment_domain": (router.get("segment") or {}).get("stage") == "domain",
        "confidence": c.get("action", "report") != "report", "confidence_other": c.get("action", "report") != "report",
        "confidence_above": c.get("action", "report") != "report", "top_p": bool(router.get("top_p")),
        "top_p_crossing": bool(router.get("top_p")), "top_p_norm": bool(router.get("top_p")),
    }.get(name, False)


# Mistakes of oracle.py's list that mean something else here, or nothing.
OTHERS = {
    "topk_norm": lambda r: r["kind"] == "flat",
    "k_plus": lambda r: r["kind"] == "flat" and not r.get("top_p") or r["kind"] == "tree" and r["leaf_k"] < tree_reach(r) or
    r["kind"] == "two_stage" and r["k"] < r["n_domain"] // r["n_global"] * r.get("global_topk", 1),
    "k_minus": lambda r: not r.get("top_p") and r.get("leaf_k", r.get("k", 1)) > 1,
    "expert_order": lambda r: True, "routed_scale": lambda r: True, "moe_input": lambda r: True,
    "router_bias": lambda r: bool(r.get("bias")),
    "sel_bias": lambda r: bool(r.get("sel_bias")),
    "sel_bias_weight": lambda r: False,
    "score_other": lambda r: False,
}


def tree_reach(router):
    """Leaves that a search comes to see."""
    b, beam = router["branch"], {"greedy": 1, "beam": router.get("beam", 1), "exact": 10 ** 9}[router["search"]]
    return min(beam, min(beam, b[0]) * b[1]) * b[2]


def most_pairs(router):
    c = gate_confidence(router)
    k = router.get("leaf_k", 1) if router["kind"] == "tree" else router["k"]
    k = c["k_max"] if c.get("action") == "widen" else k
    if router["kind"] != "two_stage":
        return k
    globals_ = router.get("global_topk", 1) + (c.get("action") == "escalate")
    return globals_ + k * (1 + (router.get("k_local", 1) if router.get("n_local") else 0))


def gate_confidence(router):
    """The confidence rule that is the gate's, not the experts' (type head)."""
    c = router.get("confidence") or {}
    return c if c.get("type") in ("entropy", "margin") else {}


def needed(router):
    return router is not None and (router.get("kind", "flat") != "flat" or
                                   any(router.get(m) for m in ("history", "segment", "top_p")) or bool(gate_confidence(router)))


# ---- arithmetic ----

def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


class Gaps:
    """How near a token's choices came to going the other way."""

    def __init__(self, tokens):
        self.least = np.full(tokens, 1e9)

    def top(self, t, values, k):
        """values sorted descending; the first k are taken."""
        if k < len(values):
            self.add(t, (values[k - 1] - values[k]) / max(abs(values[k - 1]), 1e-9))

    def order(self, t, values):
        for a, b in zip(values, values[1:]):
            self.add(t, (a - b) / max(abs(a), 1e-9))

    def add(self, t, gap):
        self.least[t] = min(self.least[t], abs(gap))


def best(values, k):
    """Indices of the k largest, best first, equal ones by index; and all values in falling order."""
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    return order[:k], [values[i] for i in order]


# ---- the first level ----

def context_of(router, w, prefix, layer, x, z, state, wrong):
    """c [T,dim]: what history adds, through V, to the first level's logits z [T,W] of the token itself."""
    h = router.get("history")
    tokens = len(x)
    if not h or "history" in wrong:
        return None
    if h["mode"] == "ema":
        rho = 1 - h["rho"] if "history_rho" in wrong else h["rho"]
        p = softmax(z)
        c = np.zeros_like(z)
        if "history_layer" in wrong and "ema" in state:
            c[0] = state["ema"]
        v = w[prefix + "gate.hist.weight"]
        for t in range(1, tokens):
            before = softmax(z[t - 1] + v @ c[t - 1]) if "history_context" in wrong else p[t - 1]
            c[t] = rho * c[t - 1] + (1 - rho) * before
        state["ema"] = c[-1].copy()
        if "history_late" in wrong:
            c = np.concatenate([c[1:], rho * c[-1:] + (1 - rho) * p[-1:]])
        return c
    d = h["dim"]
    old = state.get("gru", np.zeros((tokens, d), x.dtype))
    if "gru_start" in wrong:
        old = np.zeros_like(old)
    u = x @ w["router_gru.proj.weight"].T
    a = u @ w["router_gru.weight_ih"].T + w["router_gru.bias_ih"]
    b = old @ w["router_gru.weight_hh"].T + w["router_gru.bias_hh"]
    r, update = sigmoid(a[:, :d] + b[:, :d]), sigmoid(a[:, d:2 * d] + b[:, d:2 * d])
    inner = r * b[:, 2 * d:]
    if "gru_reset" in wrong:
        inner = (r * old) @ w["router_gru.weight_hh"][2 * d:].T + w["router_gru.bias_hh"][2 * d:]
    fresh = np.tanh(a[:, 2 * d:] + inner)
    if "gru_update" in wrong:
        update = 1 - update
    state["gru"] = (1 - update) * fresh + update * old
    return old if "gru_before" in wrong else state["gru"]


def segment_inputs(router, x, stage, wrong):
    """The hidden states that a stage decides by: a token's own in the first segment, else the mean over the segment before."""
    s = router.get("segment")
    if not s or "segment" in wrong or (stage == "domain" and (s["stage"] != "domain" or "segment_domain" in wrong)):
        return x
    out = x.copy()
    n = s["len"]
    for t in range(n, len(x)):
        start = t // n * n
        a, b = start - n, start
        if "segment_own" in wrong:
            a, b = start, min(start + n, len(x))
        if "segment_all" in wrong:
            a = 0
        out[t] = x[a:b].mean(0)
    return out


def confidence(z, kind):
    p = softmax(z)
    if kind == "entropy":
        return 1 + (p * np.log(p)).sum() / np.log(len(p))
    top = np.sort(p)
    return top[-1] - top[-2]


def unsure(router, z, t, gaps, wrong):
    c = gate_confidence(router)
    if c.get("action", "report") == "report" or "confidence" in wrong:
        return False
    kind = c["type"]
    if "confidence_other" in wrong:
        kind = "margin" if kind == "entropy" else "entropy"
    value = confidence(z, kind)
    gaps.add(t, value - c["tau"])
    return (value >= c["tau"]) if "confidence_above" in wrong else (value < c["tau"])


# ---- the kinds ----

def flat(router, z, bias, k, t, gaps, wrong):
    score = {"softmax": softmax, "sigmoid": sigmoid, "raw": lambda v: v}[router["score"]](z)
    chosen, values = best(score + bias if bias is not None else score, k)
    gaps.top(t, values, k)
    weight = np.array([1.0 if router["weight"] == "one" else score[e] for e in chosen], z.dtype)
    norm = router["norm"]
    if "topk_norm" in wrong:
        norm = "none" if norm != "none" else "sum"
    if norm == "sum":                             # what is masked has no part in the sum; a sum of 0 leaves nothing
        there = np.where(np.isneginf(weight), 0, weight)
        weight = there / there.sum() if there.sum() else 0 * there
    elif norm == "softmax":
        weight = softmax(weight)
    weight = weight * router.get("scale", 1.0)
    top = router.get("top_p")
    if top and "top_p" not in wrong:
        count, total = 0, 0.0
        while count < k:
            total += score[chosen[count]]
            gaps.add(t, total - top["P"])
            count += 1
            if total > top["P"]:
                break
        if "top_p_crossing" in wrong:
            count -= 1
        count = max(top.get("k_min", 1), count)
        chosen, weight = chosen[:count], weight[:count]
        if "top_p_norm" in wrong:
            weight = weight / weight.sum()
    return list(zip(chosen, weight))


def two_stage(router, zg, zd, zl, bias, globals_, k, t, gaps, wrong):
    G, D, L = router["n_global"], router["n_domain"], router.get("n_local", 0)
    p = softmax(zg)
    chosen, values = best(p + bias if bias is not None else p, globals_)
    gaps.top(t, values, globals_)
    mass = {}
    for g in chosen:
        mine = [d for d in range(D) if (d % G if "domain_rows" in wrong else d // (D // G)) == g]
        q = softmax(zd[mine]) * (zd[mine] > -1e29)  # what nobody may choose has no mass, even if nothing else is there
        for d, share in zip(mine, q):
            mass[d] = p[g] * share
    domains = sorted(mass, key=lambda d: (-mass[d], d))
    gaps.top(t, [mass[d] for d in domains], k)
    gaps.order(t, [mass[d] for d in domains[:k]])
    domains = domains[:k]
    product = (router["mass"] == "product") != ("mass_other" in wrong)
    total = sum(mass[d] for d in domains)
    pairs = [(g, 1.0 if "global_weight" in wrong else p[g]) for g in chosen]
    for d in domains:
        omega = mass[d] if product or not total else mass[d] / total
        pairs.append((G + d, omega))
        mine = [f for f in range(L) if (f % D if "local_rows" in wrong else f // (L // D)) == d] if L else []
        take, values = best([zl[f] for f in mine], router.get("k_local", 1) if L else 0)
        if mine:
            gaps.top(t, values, len(take))
        for i in take:
            share = sigmoid(zl[mine[i]])
            if "local_gate" in wrong:
                share = 1.0
            if "local_softmax" in wrong:
                share = softmax(zl[mine])[i]
            pairs.append((G + D + mine[i], omega * share))
    return pairs


def tree(router, logits, bias, k, t, gaps, wrong):
    """logits(level, node) -> [branch[level]]. Paths are (score, rank, node)."""
    b = router["branch"]
    search = router["search"]
    if "search_other" in wrong:
        search = "exact" if search == "greedy" else "greedy"
    step = (lambda v: v) if "level_logits" in wrong else log_softmax
    paths = [(s, s + (bias[i] if bias is not None else 0), i) for i, s in enumerate(step(logits(0, 0)))]
    for level in range(3):
        if level:
            paths = [(s + d, r + d, node * b[level] + i)
                     for s, r, node in paths for i, d in enumerate(step(logits(level, node)))]
        paths.sort(key=lambda q: (-q[1], q[2]))
        if level == 2 or search != "exact":
            keep = k if level == 2 else 1 if search == "greedy" else router["beam"]
            gaps.top(t, [q[1] for q in paths], min(keep, len(paths)))
            if level == 2:
                gaps.order(t, [q[1] for q in paths[:keep]])
            paths = paths[:keep]
    score = np.array([q[0] for q in paths])
    weight = np.exp(score) if "leaf_weights" in wrong else softmax(score)
    ids = [q[2] for q in paths]
    if "leaf_order" in wrong:
        ids = [(n % b[2]) * b[0] * b[1] + n // b[2] for n in ids]
    return list(zip(ids, weight))


def gate(router, w, prefix, layer, x, state, wrong):
    """x [T,H]; w: name -> array; state: a dict that lives as long as one forward pass. Returns ids [T,K], weights [T,K], gaps [T]."""
    kind = router["kind"]
    name = {"flat": ["gate.weight"], "tree": ["gate.l0", "gate.l1", "gate.l2"],
            "two_stage": ["gate.global.weight", "gate.domain.weight", "gate.local.weight"]}[kind]
    own = x @ w[prefix + name[0]].T
    if router.get("bias") and "router_bias" not in wrong:
        own = own + w[prefix + "gate.bias"]
    decide = segment_inputs(router, x, "global", wrong)
    z = own if decide is x else decide @ w[prefix + name[0]].T
    c = context_of(router, w, prefix, layer, x, own, state, wrong)
    if c is not None:
        z = z + c @ w[prefix + "gate.hist.weight"].T
    bias = w[prefix + "gate.e_score_correction_bias"] if router.get("sel_bias") and "sel_bias" not in wrong else None
    wide = gate_confidence(router)
    base = router.get("leaf_k", 1) if kind == "tree" else router["k"]
    base += ("k_plus" in wrong) - ("k_minus" in wrong)
    globals_ = router.get("global_topk", 1)
    if kind == "two_stage":
        zd = segment_inputs(router, x, "domain", wrong) @ w[prefix + name[1]].T
        zl = x @ w[prefix + name[2]].T if router.get("n_local") else None
    gaps, rows = Gaps(len(x)), []
    for t in range(len(x)):
        more = unsure(router, z[t], t, gaps, wrong)
        k = wide["k_max"] if more and wide["action"] == "widen" else base
        if kind == "flat":
            pairs = flat(router, z[t], bias, k, t, gaps, wrong)
        elif kind == "two_stage":
            g = globals_ + (1 if more and wide["action"] == "escalate" else 0)
            pairs = two_stage(router, z[t], zd[t], None if zl is None else zl[t], bias, g, k, t, gaps, wrong)
        else:
            def logits(level, node, t=t):
                if level == 0:
                    return z[t]
                m = w[prefix + name[level]]
                if m.ndim == 3:
                    m = m[0 if "node_gates" in wrong else node]
                return m @ x[t]
            pairs = tree(router, logits, bias, k, t, gaps, wrong)
        rows.append(pairs)
    most = max([most_pairs(router)] + [len(r) for r in rows])
    ids = np.full((len(x), most), -1)
    weights = np.zeros((len(x), most), x.dtype)
    for t, pairs in enumerate(rows):
        for j, (e, v) in enumerate(pairs):
            ids[t, j], weights[t, j] = e, v
    return ids, weights * (1.05 if "routed_scale" in wrong else 1.0), gaps.least


def expert_name(router, e):
    if (router or {}).get("kind") != "two_stage":
        return str(e)
    G, D = router["n_global"], router["n_domain"]
    return f"global.{e}" if e < G else f"domain.{e - G}" if e < G + D else f"local.{e - G - D}"


# ---- checkpoints, in the manner of make_checkpoints.MODELS ----

def first_width(c):
    r = c["moe_router"]
    return {"flat": c["num_experts"], "tree": (r.get("branch") or [0])[0], "two_stage": r.get("n_global")}[r["kind"]]


def reshape(shapes, block, c):
    """Turns the shapes of a plain flat gate and its experts into those of this router."""
    router = c.get("moe_router") or {}
    if not needed(router):
        return
    H, inner, W = c["hidden_size"], c["moe_intermediate_size"], first_width(c)
    if router["kind"] != "flat":
        del shapes[f"{block}.gate.weight"]
    if router["kind"] == "tree":
        b, shared = router["branch"], router.get("shared_level_gates")
        shapes[f"{block}.gate.l0"] = (b[0], H)
        shapes[f"{block}.gate.l1"] = (b[1], H) if shared else (b[0], b[1], H)
        shapes[f"{block}.gate.l2"] = (b[2], H) if shared else (b[0] * b[1], b[2], H)
    if router["kind"] == "two_stage":
        for name, n in (("global", "n_global"), ("domain", "n_domain"), ("local", "n_local")):
            if router.get(n):
                shapes[f"{block}.gate.{name}.weight"] = (router[n], H)
        for e in range(c["num_experts"]):
            old = [shapes.pop(f"{block}.experts.{e}.{p}_proj.weight") for p in ("gate", "up", "down")]
            new = f"{block}.experts.{expert_name(router, e)}"
            if "local." in new and router.get("rank"):
                shapes[f"{new}.lora_A.weight"] = (router["rank"], H)
                shapes[f"{new}.lora_B.weight"] = (H, router["rank"])
                continue
            for p, shape in zip(("gate", "up", "down"), old):
                shapes[f"{new}.{p}_proj.weight"] = shape
    if router.get("sel_bias"):
        shapes[f"{block}.gate.e_score_correction_bias"] = (W,)
    h = router.get("history")
    if h:
        shapes[f"{block}.gate.hist.weight"] = (W, h["dim"])
    if h and h["mode"] == "layer":
        d = h["dim"]
        shapes |= {"router_gru.proj.weight": (d, H), "router_gru.weight_ih": (3 * d, d), "router_gru.weight_hh": (3 * d, d),
                   "router_gru.bias_ih": (3 * d,), "router_gru.bias_hh": (3 * d,)}


def gain(name, fan_in):
    """Standard deviation of a tensor of these routers; None: not one of them."""
    part = name.rsplit(".gate.", 1)[-1]
    if part in ("l0", "l1", "l2", "global.weight", "domain.weight", "local.weight"):
        return 1.5 / fan_in ** 0.5
    if part == "hist.weight":
        return 2.5
    if name.startswith("router_gru."):
        return 0.5 if "bias" in name else 1.5 / fan_in ** 0.5
    if name.endswith("lora_A.weight"):
        return 1.4 / fan_in ** 0.5
    if name.endswith("lora_B.weight"):
        return 0.25 / fan_in ** 0.5
    return None


def _model(seed, router, experts, k, **more):
    c = dict(vocab_size=270 + seed % 7, hidden_size=44, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             head_dim=12, rope_theta=10000.0, rms_norm_eps=1e-3, moe_intermediate_size=12, num_experts=experts,
             num_experts_per_tok=k, shared_expert_intermediate_size=0)
    return ("llama-chatml", seed, "cadre", c | more | dict(moe_router=router))


def _flat(k, **more):
    return dict(kind="flat", score="softmax", k=k, norm="none", scale=1.0, weight="score", bias=False, sel_bias=False) | more


def _two(g, d, f, k, **more):
    return dict(kind="two_stage", n_global=g, n_domain=d, n_local=f, global_topk=1, k=k, k_local=1 if f else 0, mass="norm") | more


def _tree(branch, search, k, **more):
    return dict(kind="tree", branch=branch, shared_level_gates=False, search=search, leaf_k=k) | more


MODELS = {
    # The dynamic gate: many experts, softmax over the selected logits.
    "router_dynamic": _model(51, _flat(8, score="raw", norm="softmax"), 24, 8, moe_intermediate_size=8),
    "router_two_stage": _model(52, _two(3, 6, 12, 2), 21, 5, moe_intermediate_size=10),
    "router_two_stage_low_rank": _model(53, _two(2, 6, 12, 2, rank=3, mass="product", sel_bias=True), 20, 5),
    "router_two_stage_two": _model(54, _two(4, 8, 0, 3, global_topk=2, mass="product"), 12, 5),
    "router_tree_greedy": _model(655, _tree([3, 2, 3], "greedy", 1), 18, 1),
    "router_tree_beam": _model(56, _tree([3, 2, 3], "beam", 3, beam=2), 18, 3, moe_intermediate_size=10),
    "router_tree_exact": _model(57, _tree([3, 3, 2], "exact", 3, sel_bias=True), 18, 3, moe_intermediate_size=10),
    "router_tree_shared": _model(58, _tree([3, 3, 2], "beam", 3, beam=2, shared_level_gates=True), 18, 3,
                                  moe_intermediate_size=10),
    "router_ema_tree": _model(59, _tree([4, 2, 2], "exact", 2, history=dict(mode="ema", dim=4, rho=0.8)), 16, 2),
    "router_ema_flat": _model(60, _flat(2, norm="sum", history=dict(mode="ema", dim=5, rho=0.6)), 5, 2),
    "router_gru_tree": _model(261, _tree([3, 2, 3], "greedy", 2, history=dict(mode="layer", dim=6)), 18, 2, num_hidden_layers=3,
                              moe_intermediate_size=6),
    "router_segment": _model(62, _two(3, 6, 6, 1, segment=dict(len=7, stage="global", causal=True)), 15, 3),
    "router_segment_domain": _model(663, _two(3, 6, 12, 2, segment=dict(len=6, stage="domain", causal=True),
                                             history=dict(mode="ema", dim=3, rho=0.7)), 21, 5, moe_intermediate_size=9),
    "router_segment_tree": _model(64, _tree([3, 2, 2], "beam", 2, beam=2, segment=dict(len=5, stage="global", causal=True)), 12, 2),
    "router_top_p": _model(65, _flat(4, top_p=dict(P=0.62, k_min=1, k_max=4)), 8, 4),
    "router_widen": _model(66, _flat(2, norm="sum", confidence=dict(type="entropy", tau=0.3, action="widen", k_max=4)), 7, 2),
    "router_widen_tree": _model(67, _tree([3, 2, 3], "beam", 1, beam=2,
                                          confidence=dict(type="margin", tau=0.4, action="widen", k_max=3)), 18, 1),
    "router_escalate": _model(68, _two(3, 6, 6, 2, confidence=dict(type="margin", tau=0.4, action="escalate")), 15, 5),
}
