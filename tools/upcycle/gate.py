"""The linear gate of one layer, by regression.

The gate predicts the logarithm of each expert's power from the layer's normed
input; the k largest predictions win. The logarithm is what makes a linear
function rank well: power spans orders of magnitude, and a fit to raw power would
spend itself on the few loudest tokens.

Shapes: N tokens, H hidden, E experts.
"""
import numpy as np

import moe

RIDGE = 0.1          # of the mean input variance; flat optimum from 0.01 to 1
FLOOR = 1e-3         # of the mean power, so that silence has a logarithm
LEAST_LOAD = 0.3     # of the mean load, on calibration rows


def target(power):
    """What the gate regresses on, from expert power [N, E]."""
    return np.log(power + np.float32(FLOOR) * power.mean())


class Regression:
    """Ridge regression on fixed inputs x [N, H], factored once."""

    def __init__(self, x):
        self.mean = x.mean(axis=0)
        self.centred = x - self.mean
        a = self.centred.T @ self.centred
        a[np.diag_indices_from(a)] += np.float32(RIDGE) * np.trace(a) / len(a)
        self.inverse = np.linalg.inv(a)

    def fit(self, y):
        """weight [E, H] and bias [E] of the best linear map to y [N, E]."""
        mean = y.mean(axis=0)
        weight = (self.inverse @ (self.centred.T @ (y - mean))).T
        return weight, mean - weight @ self.mean


def raise_idle(scores, bias, k):
    """A bias with which no expert is nearly idle on these scores [N, E] (without bias).

    An expert that falls below LEAST_LOAD of the mean gets a little more bias
    until it does not; its weights stay in use and its load can be measured."""
    bias, step = bias.copy(), 0.05 * scores.std()
    for _ in range(200):
        load = moe.top_k(scores + bias, k).mean(axis=0)
        idle = load < LEAST_LOAD * k / len(bias)
        if not idle.any():
            break
        bias[idle] += step
    return bias
