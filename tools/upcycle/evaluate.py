"""Measure the sparse model as it will be stored, and judge it.

Perplexity is over held-out windows, the first token of each not counted, and in
the same way over text that nothing was ever chosen by. The bounds are checked on
the first; the second says what to expect. The yardstick beside it is random
routing: same experts, same k, any choice.
"""
import numpy as np

import dense
import moe
import progress

MAX_RATIO = 1.35            # sparse / dense perplexity
LEAST_LOAD = 0.2            # least expert load / mean load of its layer
LEAST_ROUTED = 0.5          # routed share of the active feed-forward weights
LEAST_RANDOM_LEAD = 1.15    # random-routing / sparse perplexity
BATCH = 4


def perplexity(model, ids, ffn, label):
    losses = []
    for at in range(0, len(ids), BATCH):
        part = ids[at:at + BATCH]
        losses.append(dense.next_token_losses(model, dense.forward(model, part, ffn), part))
        progress.step(label, min(at + BATCH, len(ids)), len(ids))
    return float(np.exp(np.concatenate(losses).mean()))


def random_choice(cut, seed):
    rng = np.random.default_rng([seed, 1 << 20])

    def choose(_, x):
        return moe.top_k(rng.random((len(x), cut.experts), np.float32), cut.top_k)
    return choose


def evaluate(model, cut, heldout, unseen, calibration_loads, seed):
    """The report's figures as a dictionary of plain values."""
    unseen_full = perplexity(model, unseen, dense.dense_ffn(model), "evaluating dense on unseen text")
    unseen_sparse = perplexity(model, unseen, moe.sparse_ffn(model, cut), "evaluating sparse on unseen text")
    loads = calibration_loads.copy()
    full = perplexity(model, heldout, dense.dense_ffn(model), "evaluating dense")
    sparse = perplexity(model, heldout, moe.sparse_ffn(model, cut, loads=loads), "evaluating sparse")
    chance = perplexity(model, heldout, moe.sparse_ffn(model, cut, choose=random_choice(cut, seed)),
                        "evaluating random routing")
    routed = cut.top_k * cut.width
    by_layer = loads.min(axis=1) / loads.mean(axis=1)
    return {
        "heldout_tokens": int(heldout.size), "calibration_tokens": int(calibration_loads[0].sum() // cut.top_k),
        "perplexity_dense": round(full, 4), "perplexity_sparse": round(sparse, 4),
        "perplexity_ratio": round(sparse / full, 4), "perplexity_random_routing": round(chance, 4),
        "random_ratio": round(chance / full, 4), "unseen_tokens": int(unseen.size),
        "unseen_perplexity_dense": round(unseen_full, 4), "unseen_perplexity_sparse": round(unseen_sparse, 4),
        "unseen_perplexity_ratio": round(unseen_sparse / unseen_full, 4),
        "active_fraction": round((routed + cut.shared) / model.ffn, 4),
        "routed_fraction_of_active": round(routed / (routed + cut.shared), 4),
        "least_load_over_mean": round(float(by_layer.min()), 4),
        "least_load_over_mean_by_layer": [round(float(v), 4) for v in by_layer],
        "most_load_over_mean": round(float((loads.max(axis=1) / loads.mean(axis=1)).max()), 4)}


def failures(r):
    """Every bound that the figures miss, in words."""
    bounds = [
        (r["perplexity_ratio"] <= MAX_RATIO, f"perplexity ratio {r['perplexity_ratio']} is above {MAX_RATIO}"),
        (r["least_load_over_mean"] >= LEAST_LOAD,
         f"an expert has {r['least_load_over_mean']} of the mean load, wanted {LEAST_LOAD}"),
        (r["routed_fraction_of_active"] >= LEAST_ROUTED,
         f"only {r['routed_fraction_of_active']} of the active weights are routed, wanted {LEAST_ROUTED}"),
        (r["perplexity_random_routing"] >= LEAST_RANDOM_LEAD * r["perplexity_sparse"],
         f"random routing is nearly as good: {r['perplexity_random_routing']} against {r['perplexity_sparse']}")]
    return [text for ok, text in bounds if not ok]


def table(r, cut):
    lines = [
        ("experts per layer", f"{cut.experts} of {cut.width} neurons, {cut.top_k} active, shared {cut.shared}"),
        ("active FFN weights", f"{100 * r['active_fraction']:.1f} %, routed part {100 * r['routed_fraction_of_active']:.1f} %"),
        ("held-out perplexity, dense", f"{r['perplexity_dense']:.3f}"),
        ("held-out perplexity, sparse", f"{r['perplexity_sparse']:.3f}   ({r['perplexity_ratio']:.3f} x dense)"),
        ("  with random routing", f"{r['perplexity_random_routing']:.3f}   ({r['random_ratio']:.3f} x dense)"),
        ("unseen text, dense", f"{r['unseen_perplexity_dense']:.3f}"),
        ("unseen text, sparse", f"{r['unseen_perplexity_sparse']:.3f}   ({r['unseen_perplexity_ratio']:.3f} x dense)"),
        ("expert load / mean", f"{r['least_load_over_mean']:.2f} to {r['most_load_over_mean']:.2f}")]
    return "\n".join(f"{name:<28} {value}" for name, value in lines)
