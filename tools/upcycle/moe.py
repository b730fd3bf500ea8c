"""A dense feed-forward network seen as experts, and its forward pass.

An expert is a set of neurons: rows of w_gate and w_up, columns of w_down. The
cut moves no weight and changes none except w_down, which calibration may refit.
Selection follows Cadre's rule: larger score first, then lower expert id.

Shapes: N rows, H hidden, F neurons, E experts of I neurons, S shared neurons.
"""
from dataclasses import dataclass

import numpy as np

import dense


@dataclass
class MoeLayer:
    experts: np.ndarray        # [E, I] neuron numbers
    shared: np.ndarray         # [S] neuron numbers, always active
    gate: np.ndarray           # [E, H] float32
    bias: np.ndarray | None    # [E] float32
    w_down: np.ndarray         # [H, F], neurons in the dense order

    def scores(self, x):
        """Raw gate scores [N, E] of rows x [N, H]."""
        s = x @ self.gate.T
        return s if self.bias is None else s + self.bias

    def owner(self):
        """For each neuron its expert, or E for the shared ones: [F]."""
        owner = np.full(self.experts.size + self.shared.size, len(self.experts))
        owner[self.experts] = np.arange(len(self.experts))[:, None]
        return owner


@dataclass
class Moe:
    width: int                 # I
    experts: int               # E
    top_k: int
    shared: int                # S
    layers: list


def top_k(scores, k):
    """Boolean [N, E]: the k largest per row, ties to the lower id."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen


def neuron_mask(chosen, owner):
    """Chosen experts [N, E] -> active neurons [N, F] as 0.0 and 1.0."""
    with_shared = np.ones((len(chosen), chosen.shape[1] + 1), np.float32)
    with_shared[:, :-1] = chosen
    return with_shared[:, owner]


def exact(model, experts):
    """Each FFN in `experts` equal slices, all of them active: the dense model."""
    if model.ffn % experts:
        raise ValueError(f"{experts} experts do not divide {model.ffn} neurons")
    cut = np.arange(model.ffn).reshape(experts, -1)
    gate = np.zeros((experts, model.hidden), np.float32)    # all tie: order of ids
    layers = [MoeLayer(cut, cut[:0, 0], gate, None, layer.w_down) for layer in model.layers]
    return Moe(model.ffn // experts, experts, experts, 0, layers)


def sparse_ffn(model, moe, choose=None, loads=None):
    """The feed-forward function of the MoE model, for dense.forward().

    choose(i, x) -> [N, E] bool replaces the gate (random routing);
    loads [L, E], if given, counts the rows each expert receives."""
    owners = [layer.owner() for layer in moe.layers]

    def ffn(i, x):
        layer = moe.layers[i]
        chosen = choose(i, x) if choose else top_k(layer.scores(x), moe.top_k)
        if loads is not None:
            loads[i] += chosen.sum(axis=0)
        h = dense.ffn_hidden(model.layers[i], x)
        h *= neuron_mask(chosen, owners[i])
        return h @ layer.w_down.T
    return ffn
