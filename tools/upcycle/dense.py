"""The dense reference: a Llama forward pass in numpy, float32, batched.

One forward() serves sampling (with a key/value cache), perplexity and the
greedy oracle. The feed-forward half of a layer is passed in as a function, so
the sparse model runs through the very same code with another `ffn`.

Shapes: B sequences, T tokens, H hidden, F feed-forward width, D head dim,
G = query heads per key/value head, V vocabulary.
"""
import numpy as np


def rms_norm(x, weight, eps):
    scale = 1.0 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps))
    return x * scale * weight


def silu(x):
    with np.errstate(over="ignore"):        # exp(-x) = inf gives the right 0
        return x / (1.0 + np.exp(-x))


def softmax(x):
    """Over the last axis, in place."""
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


def ffn_hidden(layer, x):
    """The F neuron activations of rows x [N, H]."""
    h = silu(x @ layer.w_gate.T)
    h *= x @ layer.w_up.T
    return h


def dense_ffn(model):
    """The feed-forward function of the unchanged model, for forward()."""
    def ffn(i, x):
        layer = model.layers[i]
        return ffn_hidden(layer, x) @ layer.w_down.T
    return ffn


class Cache:
    """Keys and values [B, kv_heads, capacity, D] per layer, for B sequences of equal length."""

    def __init__(self, model, batch, capacity):
        shape = (batch, model.kv_heads, capacity, model.head_dim)
        self.k = [np.empty(shape, np.float32) for _ in model.layers]
        self.v = [np.empty(shape, np.float32) for _ in model.layers]
        self.used = 0


def rope_tables(model, start, count):
    """cos and sin [T, D/2]; angles in float64 so that late positions stay exact."""
    half = model.head_dim // 2
    freq = model.theta ** (-np.arange(half, dtype=np.float64) / half)
    angle = np.arange(start, start + count)[:, None] * freq
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def rope(x, cos, sin):
    """Rotate pairs (i, i + D/2) of x [B, heads, T, D]."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attention(model, i, x, keys, values, start=0):
    """Causal attention of normed rows x [B, T, H] at positions start, start + 1, ...

    keys and values [B, kv_heads, capacity, D] hold the earlier positions and
    receive these."""
    layer, d = model.layers[i], model.head_dim
    b, t, h = x.shape
    end, group = start + t, model.heads // model.kv_heads
    rows, tables = x.reshape(b * t, h), rope_tables(model, start, t)

    def heads(w):                                             # [B, heads, T, D]
        return (rows @ w.T).reshape(b, t, -1, d).transpose(0, 2, 1, 3)

    q = rope(heads(layer.wq), *tables)
    keys[:, :, start:end] = rope(heads(layer.wk), *tables)
    values[:, :, start:end] = heads(layer.wv)
    # Query heads of a group share their key head: fold them into the row axis.
    q = q.reshape(b, model.kv_heads, group * t, d) * np.float32(d ** -0.5)
    scores = q @ keys[:, :, :end].swapaxes(-1, -2)             # [B, kv, G*T, end]
    if t > 1:
        future = np.arange(end)[None, :] > np.arange(start, end)[:, None]
        scores += np.tile(np.where(future, np.float32(-1e30), np.float32(0)), (group, 1))
    out = softmax(scores) @ values[:, :, :end]
    out = out.reshape(b, model.heads, t, d).transpose(0, 2, 1, 3).reshape(b * t, -1)
    return (out @ layer.wo.T).reshape(b, t, h)


def forward(model, ids, ffn, cache=None, probe=None):
    """Final normed hidden states [B, T, H] of ids [B, T].

    ffn(i, rows [N, H]) -> [N, H] is layer i's feed-forward half; `rows` are
    already normed. probe(i, rows), if given, sees the same rows first."""
    b, t = ids.shape
    cache = cache or Cache(model, b, t)
    x = model.embed[ids]
    for i, layer in enumerate(model.layers):
        x += attention(model, i, rms_norm(x, layer.attn_norm, model.eps),
                       cache.k[i], cache.v[i], cache.used)
        rows = rms_norm(x, layer.ffn_norm, model.eps).reshape(b * t, -1)
        if probe:
            probe(i, rows)
        x += ffn(i, rows).reshape(x.shape)
    cache.used += t
    return rms_norm(x, model.out_norm, model.eps)


def logits(model, hidden):
    return hidden @ model.embed.T


def next_token_losses(model, hidden, ids, rows=512):
    """-log p(ids[t+1]) for hidden [B, T, H], ids [B, T]: float64 [B * (T-1)]."""
    states = hidden[:, :-1].reshape(-1, hidden.shape[-1])
    targets = ids[:, 1:].reshape(-1)
    losses = []
    for at in range(0, len(targets), rows):
        z = logits(model, states[at:at + rows])
        z -= z.max(axis=-1, keepdims=True)
        want = z[np.arange(len(z)), targets[at:at + rows]]
        losses.append(np.log(np.exp(z).sum(axis=-1, dtype=np.float64)) - want)
    return np.concatenate(losses)


def greedy(model, prompt, count, ffn=None):
    """Greedy continuation of token ids: (ids [count], smallest top1 - top2 gap)."""
    ffn = ffn or dense_ffn(model)
    cache = Cache(model, 1, len(prompt) + count)
    step, out, margin = np.array([prompt]), [], np.inf
    for _ in range(count):
        z = logits(model, forward(model, step, ffn, cache)[0, -1])
        second, best = np.argpartition(z, -2)[-2:]
        margin = min(margin, float(z[best] - z[second]))
        out.append(int(best))
        step = np.array([[best]])
    return out, margin
