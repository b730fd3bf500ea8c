"""Unit tests on a tiny random model; a few seconds, no network.

Run with the tool's environment: VENV/bin/python tools/upcycle/test_upcycle.py
"""
import json
import tempfile
import unittest
from pathlib import Path

import numpy as np

import dense
import fit
import gate
import gguf_model
import grouping
import manifest
import moe
import tokenizer
import write


def tiny_model(layers=2, seed=0):
    """hidden 32, 4 query and 2 key/value heads of 8, 48 neurons, 64 tokens."""
    rng = np.random.default_rng(seed)

    def w(*shape):
        return gguf_model.round_bf16(rng.standard_normal(shape).astype(np.float32) / np.sqrt(shape[-1]))

    def norm(n):
        return gguf_model.round_bf16(1 + 0.1 * rng.standard_normal(n).astype(np.float32))
    m = gguf_model.Model(hidden=32, ffn=48, heads=4, kv_heads=2, head_dim=8, context=128,
                         eps=1e-5, theta=10000.0, embed=gguf_model.round_bf16(3 * w(64, 32)), out_norm=norm(32))
    for _ in range(layers):
        m.layers.append(gguf_model.Layer(norm(32), w(32, 32), w(16, 32), w(16, 32), w(32, 32), norm(32),
                                         2 * w(48, 32), 2 * w(48, 32), w(32, 48)))
    return m


def tiny_ids(batch=3, length=10, seed=1):
    return np.random.default_rng(seed).integers(0, 64, (batch, length))


class Reading(unittest.TestCase):
    def test_undo_permutation_inverts_the_converter(self):
        heads, d, cols = 3, 8, 5
        w = np.arange(heads * d * cols, dtype=np.float32).reshape(heads * d, cols)
        stored = w.reshape(heads, 2, d // 2, cols).swapaxes(1, 2).reshape(w.shape)
        self.assertFalse(np.array_equal(stored, w))
        np.testing.assert_array_equal(gguf_model.undo_permutation(stored, heads), w)

    def test_round_bf16_is_to_nearest_even(self):
        step = 2.0 ** -7                       # spacing of bf16 in [1, 2)
        x = np.float32([1, 1 + step / 2, 1 + 1.5 * step, 1 + 0.6 * step, -1 - 0.6 * step])
        np.testing.assert_array_equal(gguf_model.round_bf16(x),
                                      np.float32([1, 1, 1 + 2 * step, 1 + step, -1 - step]))


class Forward(unittest.TestCase):
    def test_cached_steps_equal_one_pass(self):
        m, ids = tiny_model(), tiny_ids()
        whole = dense.forward(m, ids, dense.dense_ffn(m))
        cache = dense.Cache(m, *ids.shape)
        parts = [dense.forward(m, ids[:, a:b], dense.dense_ffn(m), cache) for a, b in ((0, 4), (4, 5), (5, 10))]
        np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-5)

    def test_later_tokens_do_not_reach_back(self):
        m, ids = tiny_model(), tiny_ids()
        other = ids.copy()
        other[:, 6:] = (other[:, 6:] + 1) % 64
        a, b = (dense.forward(m, i, dense.dense_ffn(m)) for i in (ids, other))
        np.testing.assert_allclose(a[:, :6], b[:, :6], atol=1e-6)
        self.assertGreater(np.abs(a[:, 6] - b[:, 6]).max(), 1e-2)

    def test_rotation_depends_on_distance_only(self):
        m = tiny_model()
        q, k = np.random.default_rng(2).standard_normal((2, 1, 1, 1, 8)).astype(np.float32)

        def dot(i, j):
            return float(np.sum(dense.rope(q, *dense.rope_tables(m, i, 1)) * dense.rope(k, *dense.rope_tables(m, j, 1))))
        self.assertAlmostEqual(dot(7, 3), dot(25, 21), places=5)
        self.assertGreater(abs(dot(7, 3) - dot(7, 4)), 1e-3)


class Experts(unittest.TestCase):
    def test_exact_slices_equal_dense(self):
        m, ids = tiny_model(), tiny_ids()
        cut = moe.exact(m, 6)
        want = dense.forward(m, ids, dense.dense_ffn(m))
        np.testing.assert_allclose(dense.forward(m, ids, moe.sparse_ffn(m, cut)), want, atol=1e-5)
        # The same by explicit experts, as a server computes it.
        layer, x = m.layers[0], want.reshape(-1, 32)
        total = sum(dense.silu(x @ layer.w_gate[e].T) * (x @ layer.w_up[e].T) @ layer.w_down[:, e].T
                    for e in cut.layers[0].experts)
        np.testing.assert_allclose(total, dense.dense_ffn(m)(0, x), atol=1e-4)

    def test_top_k_breaks_ties_by_lower_id(self):
        chosen = moe.top_k(np.float32([[1, 3, 3, 3], [0, 0, 0, 0]]), 2)
        np.testing.assert_array_equal(chosen, [[0, 1, 1, 0], [1, 1, 0, 0]])


class Grouping(unittest.TestCase):
    def test_assign_fills_every_place_once(self):
        gain = np.random.default_rng(3).random((48, 6))
        room = [6, 6, 6, 6, 6, 18]
        owner = grouping.assign(gain, room)
        np.testing.assert_array_equal(np.bincount(owner, minlength=6), room)

    def test_groups_find_neurons_that_fire_together(self):
        # Four blocks of neurons, each driven by one input sign; two inputs, k = 2.
        rng = np.random.default_rng(4)
        x = rng.standard_normal((2000, 2)).astype(np.float32)
        drive = np.maximum(np.stack([x[:, 0], -x[:, 0], x[:, 1], -x[:, 1]], axis=1), 0)
        power = np.repeat(drive, 8, axis=1) * rng.uniform(0.8, 1.2, (2000, 32)).astype(np.float32)
        owner = grouping.group(power, x, 4, 0, 2, rng)
        for block in owner.reshape(4, 8):
            self.assertEqual(len(set(block)), 1)

    def test_no_expert_stays_idle(self):
        scores = np.random.default_rng(5).standard_normal((1000, 8)) + np.arange(8)
        bias = gate.raise_idle(scores, np.zeros(8), 4)
        load = moe.top_k(scores + bias, 4).mean(axis=0)
        self.assertGreaterEqual(load.min(), gate.LEAST_LOAD * 0.5)

    def test_fitted_model_beats_chance_and_uses_each_neuron_once(self):
        m, ids = tiny_model(), tiny_ids(40, 24)
        cut, loads = fit.fit(m, ids, 4, 2, 16, seed=1, store=Forgetful())
        for layer in cut.layers:
            everyone = np.concatenate([layer.experts.ravel(), layer.shared])
            np.testing.assert_array_equal(np.sort(everyone), np.arange(48))
        self.assertTrue(np.all(loads.sum(axis=1) == ids.size * 2))
        rng = np.random.default_rng(6)
        want = dense.forward(m, ids, dense.dense_ffn(m))
        fitted = dense.forward(m, ids, moe.sparse_ffn(m, cut))
        chance = dense.forward(m, ids, moe.sparse_ffn(
            m, cut, choose=lambda i, x: moe.top_k(rng.random((len(x), 4)), 2)))
        self.assertLess(np.mean((fitted - want) ** 2), 0.8 * np.mean((chance - want) ** 2))

    def test_the_same_seed_gives_the_same_model(self):
        m, ids = tiny_model(), tiny_ids(20, 16)
        a, b = (fit.fit(m, ids, 4, 2, 16, seed=1, store=Forgetful())[0] for _ in range(2))
        for x, y in zip(a.layers, b.layers):
            np.testing.assert_array_equal(x.w_down, y.w_down)
            np.testing.assert_array_equal(x.gate, y.gate)


class Forgetful:
    """A store that keeps nothing."""

    def get(self, i):
        return None

    def put(self, i, layer):
        pass


class Writing(unittest.TestCase):
    def test_directory_is_whole_and_reads_back(self):
        m = tiny_model()
        m.vocab = {"pre": "smollm", "tokens": ["a", "b"], "types": [1, 1], "merges": ["a b"], "bos": 0,
                   "eos": 1, "pad": 1, "unk": -1, "add_bos": False, "chat_template": ""}
        with tempfile.TemporaryDirectory() as d:
            folder = Path(d) / "out"
            write.write_model(folder, m, moe.exact(m, 6), {"settings": {"seed": 1}})
            self.assertIsNone(manifest.problem(folder))
            self.assertEqual(manifest.made_with(folder), {"seed": 1})
            self.assertEqual(list(folder.glob("*.tmp")), [])
            raw = (folder / "model.safetensors").read_bytes()
            size = int.from_bytes(raw[:8], "little")
            header = json.loads(raw[8:8 + size])
            entry = header["model.layers.1.mlp.experts.2.down_proj.weight"]
            a, b = entry["data_offsets"]
            stored = np.frombuffer(raw[8 + size + a:8 + size + b], "<u2").astype(np.uint32) << 16
            np.testing.assert_array_equal(stored.view(np.float32).reshape(entry["shape"]),
                                          m.layers[1].w_down[:, 16:24])
            self.assertEqual(max(e["data_offsets"][1] for n, e in header.items() if n != "__metadata__"),
                             len(raw) - 8 - size)
            (folder / "model.safetensors").write_bytes(raw[:-1] + b"x")
            self.assertIn("checksum", manifest.problem(folder))


    def test_the_tool_is_known_by_its_source_and_texts(self):
        with tempfile.TemporaryDirectory() as d:
            here = Path(d)
            (here / "text").mkdir()
            names = ("fit.py", "test_upcycle.py", "text/calibration.txt")
            for name in names:
                (here / name).write_text("one")
            sparse, exact = manifest.tool(True, here), manifest.tool(False, here)
            self.assertNotEqual(sparse, exact)
            for name, changes_sparse, changes_exact in zip(names, (True, False, True), (True, False, False)):
                (here / name).write_text("two")
                self.assertEqual(manifest.tool(True, here) != sparse, changes_sparse, name)
                self.assertEqual(manifest.tool(False, here) != exact, changes_exact, name)
                (here / name).write_text("one")
            self.assertEqual(manifest.tool(True, here), sparse)


class Tokens(unittest.TestCase):
    def vocab(self):
        tokens = ["<|end|>", *tokenizer.byte_alphabet().values(), "he", "ll", "hell", "\u0120hell"]
        return {"pre": "smollm", "tokens": tokens, "types": [3] + [1] * (len(tokens) - 1),
                "merges": ["h e", "l l", "he ll", "\u0120 hell"], "bos": 0, "eos": 0, "pad": 0, "unk": -1,
                "add_bos": False, "chat_template": ""}

    def test_merges_specials_and_digits(self):
        t = tokenizer.Tokenizer(self.vocab())
        text = "hello hell<|end|>12 \u00e9\n"
        ids = t.encode(text)
        self.assertEqual([t.vocab["tokens"][i] for i in ids],
                         ["hell", "o", "\u0120hell", "<|end|>", "1", "2", "\u0120", "\u00c3", "\u00a9", "\u010a"])
        self.assertEqual(t.decode(ids), text)

    def test_byte_alphabet_is_one_to_one(self):
        self.assertEqual(len(set(tokenizer.byte_alphabet().values())), 256)


if __name__ == "__main__":
    unittest.main()
