"""Which neurons form which expert.

A neuron's power on a token is the squared length of what it adds to the
output, |h|^2 * |w_down column|^2. Two choices alternate, as in k-means: given
the groups, a linear gate picks k groups for each token; given the picks, every
neuron goes where most of its power is picked. Each step can only raise the
power that survives, but for rounding and the limited room in a group. The
shared expert is simply one more group that is always picked, so the neurons
that are busy on every token end up there without a rule of their own.

The gate takes part from the start because a grouping that only an oracle could
route is worth little: neurons that fire together for reasons that a linear
function of the input cannot see should not be grouped for it.

Shapes: N tokens, H hidden, F neurons, E experts of I neurons, S shared neurons.
"""
import numpy as np

import gate
import moe

ROUNDS = 12


def assign(gain, room):
    """Owner [F] for gain [F, G] when group g takes exactly room[g] neurons.

    Neurons with most to lose from their second choice go first."""
    ranked = np.sort(gain, axis=1)
    preferred = np.argsort(-gain, axis=1)
    owner, left = np.empty(len(gain), int), list(room)
    for f in np.argsort(ranked[:, -2] - ranked[:, -1], kind="stable"):
        g = next(g for g in preferred[f] if left[g])
        owner[f] = g
        left[g] -= 1
    return owner


def group(power, x, experts, shared, k, rng):
    """Owner [F] of each neuron (expert number, or E for shared).

    power [N, F], x [N, H] the rows that the gate sees."""
    f = power.shape[1]
    width = (f - shared) // experts
    busiest = np.argsort(-power.sum(axis=0), kind="stable")
    owner = np.full(f, experts)
    owner[rng.permutation(busiest[shared:])] = np.arange(f - shared) // width
    room = [width] * experts + [shared]
    solver = gate.Regression(x)
    for _ in range(ROUNDS):
        load = expert_power(power, owner, experts)
        weight, bias = solver.fit(gate.target(load))
        chosen = moe.top_k(x @ weight.T + bias, k)
        always = np.ones((len(x), 1), np.float32)
        owner = assign(power.T @ np.hstack([chosen, always]), room)
    return owner


def expert_power(power, owner, experts):
    """Power of each expert's neurons together: [N, E]."""
    member = np.zeros((len(owner), experts + 1), np.float32)
    member[np.arange(len(owner)), owner] = 1
    return power @ member[:, :experts]
