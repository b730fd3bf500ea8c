"""Fit the sparse model, layer by layer, on calibration tokens.

Two copies of the tokens' residual stream run side by side: one through the
dense layers, one through the sparse layers fitted so far. In each layer the
neurons are grouped and the gate is fitted on what the sparse stream really
feeds it, then w_down is refitted by least squares so that the active neurons
make up for the missing ones, and for what earlier layers got wrong. The refit is
held near the original by a ridge: calibration text is scarce.

Rows count by the inverse size of the residual stream they add to, because the
next norm divides by it; otherwise the few tokens with enormous activations
would be all that is fitted.

Ideas from MoEfication, LLaMA-MoE and CMoE (grouping by activation, a shared
expert for busy neurons) and from one-shot pruning (least-squares repair).

Shapes: B sequences, T tokens, N rows (all tokens), H hidden, F neurons.
"""
import numpy as np

import dense
import gate
import grouping
import moe
import progress
from gguf_model import round_bf16

GROUPING_ROWS = 8192     # rows that take part in grouping; the rest of the fit uses all
RIDGE = 0.4              # of the mean neuron variance, against moving w_down
REPAIR = 0.5             # share of the earlier layers' error that a layer tries to undo


class Stream:
    """The residual stream of token windows [B, T], one layer at a time."""

    def __init__(self, model, ids):
        self.model = model
        self.x = model.embed[ids]                             # [B, T, H]

    def attend(self, i):
        m, t = self.model, self.x.shape[1]
        shape = (1, m.kv_heads, t, m.head_dim)
        for row in self.x:           # one window at a time: its scores stay in cache
            normed = dense.rms_norm(row[None], m.layers[i].attn_norm, m.eps)
            row += dense.attention(m, i, normed, np.empty(shape, np.float32), np.empty(shape, np.float32))[0]

    def rows(self):
        """[N, H], a view."""
        return self.x.reshape(-1, self.x.shape[-1])


def repair(h, y, weight, w_down):
    """w_down [H, F] moved so that h [N, F] gives y [N, H]; rows count by weight [N]."""
    root = np.sqrt(weight)[:, None]
    missing = (y - h @ w_down.T) * root
    h = h * root
    a = h.T @ h
    a[np.diag_indices_from(a)] += np.float32(RIDGE) * np.trace(a) / len(a)
    return w_down + np.linalg.solve(a, h.T @ missing).T


def fit_layer(layer, x, h, goal, weight, shape, rng):
    """One MoeLayer for normed rows x [N, H] with dense activations h [N, F].

    goal [N, H] is the output wanted."""
    experts, k, shared = shape
    power = h * h
    power *= weight[:, None] * (layer.w_down ** 2).sum(axis=0)
    some = rng.permutation(len(x))[:GROUPING_ROWS]
    owner = grouping.group(power[some], x[some], experts, shared, k, rng)
    w, b = gate.Regression(x).fit(gate.target(grouping.expert_power(power, owner, experts)))
    b = gate.raise_idle(x @ w.T, b, k)
    chosen = moe.top_k(x @ w.T + b, k)
    active = h * moe.neuron_mask(chosen, owner)
    w_down = round_bf16(repair(active, goal, weight, layer.w_down))
    return moe.MoeLayer(experts=np.stack([np.flatnonzero(owner == e) for e in range(experts)]),
                        shared=np.flatnonzero(owner == experts), gate=w, bias=b, w_down=w_down)


def fit(model, ids, experts, k, shared, seed, store):
    """The whole sparse model, and its expert loads [L, E] on ids [B, T].

    store.get(i) and store.put(i, layer) keep finished layers between runs."""
    sparse, full = Stream(model, ids), Stream(model, ids)
    layers, loads = [], np.zeros((len(model.layers), experts), np.int64)
    for i, layer in enumerate(model.layers):
        sparse.attend(i)
        full.attend(i)
        residual, wanted = sparse.rows(), full.rows()
        x = dense.rms_norm(residual, layer.ffn_norm, model.eps)
        h = dense.ffn_hidden(layer, x)
        y = h @ layer.w_down.T
        y_full = dense.ffn_hidden(layer, dense.rms_norm(wanted, layer.ffn_norm, model.eps)) @ layer.w_down.T
        fitted = store.get(i)
        if fitted is None:
            goal = y + np.float32(REPAIR) * ((wanted + y_full) - (residual + y))
            weight = 1.0 / np.mean((residual + y) ** 2, axis=1)
            rng = np.random.default_rng([seed, i])
            fitted = fit_layer(layer, x, h, goal, weight / weight.mean(), (experts, k, shared), rng)
            store.put(i, fitted)
        chosen = moe.top_k(fitted.scores(x), k)
        loads[i] = chosen.sum(axis=0)
        h *= moe.neuron_mask(chosen, fitted.owner())
        residual += h @ fitted.w_down.T
        wanted += y_full
        layers.append(fitted)
        progress.step("fitting layers", i + 1, len(model.layers))
    return moe.Moe((model.ffn - shared) // experts, experts, k, shared, layers), loads
