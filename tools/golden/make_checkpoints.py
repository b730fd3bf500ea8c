#!/usr/bin/env python3
"""Makes the tiny random checkpoints of tests/golden/data and the logits that a correct engine gets from them.

For every entry of MODELS: draw weights, write them under the tensor names of published checkpoints, let transformers load
them and write them back (the written files are what is committed), then store the float32 logits of a few prompts. A second
implementation (oracle.py) must agree, and every mistake of its list must move the logits visibly: otherwise nothing is written.

Run: make_checkpoints.py [--out DIR] [--only NAME]. Deterministic: the same versions write the same bytes.
"""
import argparse
import json
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

import expert_oracle
import gates
import latent
import llama4
import oracle
import router_oracle
import tiny_tokenizers

DATA = Path(__file__).resolve().parents[2] / "tests/golden/data"

# The residual stream is kept small (standard deviation about this) so that a wrong epsilon in any norm shows.
STREAM = 0.03
LENGTHS = (17, 31, 47)          # tokens per prompt: none a multiple of a page or of a chunk
GREEDY = 20                     # tokens continued greedily after prompt 0
TOLERANCE = 1e-4                # of the logits' standard deviation: what golden tests allow
VISIBLE = 100 * TOLERANCE       # what every mutation must exceed in at least one prompt, in the same unit

COMMON = {"hidden_act": "silu", "max_position_embeddings": 256, "attention_dropout": 0.0}

# name -> tokenizer kind, seed, style of config.json ("transformers" as version 5 writes it, "published" as older
# checkpoints have it, "cadre"), and the configuration itself.
MODELS = {
    "llama": ("llama", 11, "transformers", dict(
        model_type="llama", vocab_size=269, hidden_size=60, intermediate_size=44, num_hidden_layers=3,
        num_attention_heads=6, num_key_value_heads=2, rope_theta=10000.0, rms_norm_eps=1e-5)),
    "llama_tied": ("llama-chatml", 12, "published", dict(
        model_type="llama", vocab_size=273, hidden_size=44, intermediate_size=36, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=12, rope_theta=500000.0, rms_norm_eps=1e-3,
        attention_bias=True, tie_word_embeddings=True)),
    "mixtral": ("mixtral", 13, "transformers", dict(
        model_type="mixtral", vocab_size=291, hidden_size=40, intermediate_size=28, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, rope_theta=1000000.0, rms_norm_eps=1e-5,
        num_local_experts=8, num_experts_per_tok=2, sliding_window=None)),
    "qwen2_moe": ("qwen", 14, "published", dict(
        model_type="qwen2_moe", vocab_size=283, hidden_size=40, intermediate_size=44, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, rope_theta=1000000.0, rms_norm_eps=1e-6,
        num_experts=6, num_experts_per_tok=3, moe_intermediate_size=22, shared_expert_intermediate_size=36,
        norm_topk_prob=False, mlp_only_layers=[1], decoder_sparse_step=1)),
    "qwen3_moe": ("qwen", 15, "transformers", dict(
        model_type="qwen3_moe", vocab_size=277, hidden_size=44, intermediate_size=36, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=12, rope_theta=100000.0, rms_norm_eps=1e-3,
        num_experts=7, num_experts_per_tok=3, moe_intermediate_size=24, norm_topk_prob=True,
        mlp_only_layers=[], decoder_sparse_step=2)),
    "olmoe": ("olmoe", 16, "published", dict(
        model_type="olmoe", vocab_size=275, hidden_size=60, intermediate_size=20, num_hidden_layers=2,
        num_attention_heads=6, num_key_value_heads=3, rope_theta=10000.0, rms_norm_eps=1e-5,
        num_experts=7, num_experts_per_tok=3, norm_topk_prob=False, clip_qkv=2.0)),
    # All experts active with weight one: the form that splits a dense FFN without changing it.
    "cadre_moe_all": ("llama-chatml", 21, "cadre", dict(
        vocab_size=270, hidden_size=44, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
        rope_theta=10000.0, rms_norm_eps=1e-3, moe_intermediate_size=20, num_experts=4, num_experts_per_tok=4,
        shared_expert_intermediate_size=0,
        moe_router=dict(kind="flat", score="softmax", k=4, norm="none", scale=1.0, weight="one", bias=False,
                        sel_bias=False))),
    # Some experts, weight one, beside a shared expert: the form a sparsified dense model has.
    "cadre_moe_one": ("llama-chatml", 22, "cadre", dict(
        vocab_size=271, hidden_size=52, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=10,
        rope_theta=100000.0, rms_norm_eps=3e-4, moe_intermediate_size=20, num_experts=8, num_experts_per_tok=5,
        shared_expert_intermediate_size=28,
        moe_router=dict(kind="flat", score="softmax", k=5, norm="none", scale=1.0, weight="one", bias=True,
                        sel_bias=False))),
    # Everything else switched on.
    "cadre_moe_score": ("llama-chatml", 23, "cadre", dict(
        vocab_size=267, hidden_size=44, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=3, head_dim=10,
        rope_theta=50000.0, rms_norm_eps=1e-3, moe_intermediate_size=21, num_experts=7, num_experts_per_tok=3,
        shared_expert_intermediate_size=30,
        moe_router=dict(kind="flat", score="sigmoid", k=3, norm="sum", scale=1.7, weight="score", bias=True,
                        sel_bias=True))),
    # Raw scores, softmax over the selected.
    "cadre_moe_raw": ("llama-chatml", 24, "cadre", dict(
        vocab_size=272, hidden_size=44, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
        rope_theta=10000.0, rms_norm_eps=2e-4, moe_intermediate_size=23, num_experts=5, num_experts_per_tok=2,
        shared_expert_intermediate_size=0,
        moe_router=dict(kind="flat", score="raw", k=2, norm="softmax", scale=1.0, weight="score", bias=False,
                        sel_bias=False))),
}
MODELS |= expert_oracle.MODELS
MODELS |= gates.MODELS
MODELS |= latent.MODELS
MODELS |= llama4.MODELS
MODELS |= router_oracle.MODELS
SHARDED = "mixtral"             # saved a second time as <name>_sharded, in two files with an index


def shapes(c):
    """On-disk tensor name -> shape, in the order of the forward pass."""
    if c["model_type"] == "llama4_text":
        return llama4.shapes(c)
    H, L, V = c["hidden_size"], c["num_hidden_layers"], c["vocab_size"]
    N, M = c["num_attention_heads"], c["num_key_value_heads"]
    D, family = c.get("head_dim") or H // N, c["model_type"]
    out = {"model.embed_tokens.weight": (V, H)}

    def mlp(prefix, inner, names=("gate_proj", "up_proj", "down_proj")):
        for name, shape in zip(names, ((inner, H), (inner, H), (H, inner))):
            out[f"{prefix}.{name}.weight"] = shape

    for i in range(L):
        p = f"model.layers.{i}."
        out[p + "input_layernorm.weight"] = (H,)
        if latent.is_latent(c):
            latent.attention_shapes(out, p, c)
        for name, rows, cols in () if latent.is_latent(c) else (("q", N * D, H), ("k", M * D, H), ("v", M * D, H), ("o", H, N * D)):
            out[f"{p}self_attn.{name}_proj.weight"] = (rows, cols)
            if (c.get("attention_bias") and (family, name) != ("glm4_moe", "o")) or (family == "qwen2_moe" and name != "o"):
                out[f"{p}self_attn.{name}_proj.bias"] = (rows,)
        if family in ("qwen3_moe", "olmoe") or c.get("use_qk_norm"):
            out[p + "self_attn.q_norm.weight"] = (D,) if family in ("qwen3_moe", "glm4_moe") else (N * D,)
            out[p + "self_attn.k_norm.weight"] = (D,) if family in ("qwen3_moe", "glm4_moe") else (M * D,)
        out[p + "post_attention_layernorm.weight"] = (H,)
        sparse = i not in c.get("mlp_only_layers", []) and (i + 1) % c.get("decoder_sparse_step", 1) == 0
        sparse = sparse and i >= c.get("first_k_dense_replace", 0)
        experts = c.get("num_experts") or c.get("num_local_experts") or c.get("n_routed_experts")
        width = experts and experts + c.get("moe_router", {}).get("zero_experts", 0)
        if not experts or not sparse:
            mlp(p + "mlp", c["intermediate_size"])
            continue
        block = p + ("block_sparse_moe" if family in ("mixtral", "minimax_m2") else "mlp")
        inner = c.get("moe_intermediate_size") or c["intermediate_size"]
        out[block + ".gate.weight"] = (width, H)
        if c.get("moe_router", {}).get("bias"):
            out[block + ".gate.bias"] = (width,)
        if c.get("moe_router", {}).get("sel_bias") or family == "glm4_moe" or latent.has_sel_bias(c):
            out[block + ".gate.e_score_correction_bias"] = (width,)
        if family == "minimax_m2":
            out[block + ".e_score_correction_bias"] = (width,)
        for j in range(experts):
            names = ("w1", "w3", "w2") if family in ("mixtral", "minimax_m2") else ("gate_proj", "up_proj", "down_proj")
            mlp(f"{block}.experts.{j}", inner, names)
        expert_oracle.reshape(out, block, c)
        router_oracle.reshape(out, block, c)
        if c.get("n_shared_experts"):
            mlp(block + ".shared_experts", c["n_shared_experts"] * inner)
        if c.get("shared_expert_intermediate_size"):
            mlp(block + ".shared_expert", c["shared_expert_intermediate_size"])
            if family == "qwen2_moe":
                out[block + ".shared_expert_gate.weight"] = (1, H)
    out["model.norm.weight"] = (H,)
    if not c.get("tie_word_embeddings"):
        out["lm_head.weight"] = (V, H)
    return out


def draw(name, shape, c, seed):
    """One tensor. Spreads are chosen so that scores, gates and SiLU work in their curved range and every tensor matters."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    z = rng.standard_normal(shape)
    part = name.rsplit(".", 2)[-2] if name.endswith(("weight", "bias")) else name.rsplit(".", 1)[-1]
    tied = c.get("tie_word_embeddings")
    special = latent.draw(name, shape, c, z)
    if special is not None:
        return special
    if part in ("w1", "w3", "w2"):
        part = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}[part]
    if part in ("q_norm", "k_norm"):
        return np.abs(1.4 + 0.4 * z)
    if "norm" in part:
        return np.abs(1.0 + 0.3 * z)
    if router_oracle.gain(name, shape[-1]):
        return router_oracle.gain(name, shape[-1]) * z
    if name.endswith("e_score_correction_bias"):
        groups = c.get("moe_router", {}).get("groups") or c.get("n_group", 1) > c.get("topk_group", 1)
        return (0.05 if c.get("moe_router", {}).get("score") == "softmax" else 0.15) * z - (0.5 if groups else 0)
    if c["model_type"] == "glm4_moe" and c["use_qk_norm"] and part in ("q_proj", "k_proj") and name.endswith("bias"):
        return STREAM * z                         # of the size of what it is added to
    if name.endswith("bias"):
        return (0.05 if c["model_type"] == "olmoe" else 0.4 if part != "o_proj" else STREAM) * z
    if ".experts." in name and len(shape) == 3:   # transposed: [E, in, out]
        return (1.4 if name.endswith("gate_up_proj") else 3.0 * STREAM) / np.sqrt(shape[1]) * z
    if c["model_type"] == "llama4_text" and part in ("q_proj", "k_proj") and c["no_rope_layers"][int(name.split(".")[2])]:
        return STREAM * 2.0 / np.sqrt(shape[-1]) * z   # as below: a norm follows
    fan_in = shape[-1]
    if expert_oracle.gain(part, fan_in):
        return expert_oracle.gain(part, fan_in) * z
    gain = {"embed_tokens": (0.2 if tied else STREAM) * np.sqrt(fan_in),
            "lm_head": 1.2, "q_proj": 1.3, "k_proj": 1.3, "v_proj": 1.0, "o_proj": 2.0 * STREAM,
            "gate": 1.5, "router": 1.5, "shared_expert_gate": 1.5, "gate_proj": 1.4, "up_proj": 1.4, "down_proj": 1.4 * STREAM}[part]
    if tied and part in ("o_proj", "down_proj"):
        gain *= 0.12 / STREAM
    if any(f"self_attn.{p}_norm" in t for p in "qk" for t in shapes(c)) and part in ("q_proj", "k_proj"):
        gain = STREAM * (2.0 if c["rms_norm_eps"] > 1e-4 else 0.6)   # the norm that follows sets the size; its epsilon must show
    if part == "down_proj" and ".experts." in name:
        router = c.get("moe_router", {})
        gain *= 1.0 if router.get("weight") == "one" else 3.0 if not c.get("norm_topk_prob") else 2.0
    return gain / np.sqrt(fan_in) * z


def weights(c, seed):
    out = {name: torch.from_numpy(draw(name, shape, c, seed).astype(np.float32)) for name, shape in shapes(c).items()}
    if c["model_type"] == "cadre_moe":            # bf16 on disk, as the format says; the gate's own tensors stay float32
        out = {n: t if ".mlp.gate." in n or n.startswith("router_gru.") else t.bfloat16() for n, t in out.items()}
    return {n: t.contiguous() for n, t in out.items()}


def config_for(name, kind_ids):
    """The dictionary to write first; transformers rewrites it in its own style."""
    _, _, style, c = MODELS[name]
    c = dict(COMMON, tie_word_embeddings=False) | c
    c["bos_token_id"], c["eos_token_id"] = kind_ids
    if style == "cadre":
        c = {"architectures": ["CadreMoeForCausalLM"], "model_type": "cadre_moe"} | c
        c |= {"tie_word_embeddings": True, "torch_dtype": "bfloat16", "attention_bias": False}
        del c["attention_dropout"]
        return c
    classes = {"llama": "LlamaForCausalLM", "mixtral": "MixtralForCausalLM", "qwen2_moe": "Qwen2MoeForCausalLM",
               "qwen3_moe": "Qwen3MoeForCausalLM", "olmoe": "OlmoeForCausalLM"} | gates.CLASSES | latent.CLASSES | llama4.CLASSES
    return {"architectures": [classes[c["model_type"]]]} | c | {"torch_dtype": "float32", "use_cache": True}


def load_reference(directory):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, config=latent.reference_config(directory), dtype=torch.float32, attn_implementation="eager",
                                                              experts_implementation="eager")
    return model.eval()


@torch.no_grad()
def reference_logits(model, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def write_model(name, directory):
    """Everything of one checkpoint but the logits. Returns the callable ids -> float32 logits of the reference."""
    kind, seed, style, _ = MODELS[name]
    tokenizer, bos, eos = tiny_tokenizers.write(directory, kind, template_file=name == "qwen3_moe")
    c = config_for(name, (bos, eos[0] if len(eos) == 1 else eos))
    assert tokenizer.get_vocab_size() <= c["vocab_size"], (tokenizer.get_vocab_size(), c["vocab_size"])
    (directory / "config.json").write_text(json.dumps(c, indent=2) + "\n")
    tensors = weights(c, seed)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    generation = {"bos_token_id": bos, "do_sample": False, "eos_token_id": c["eos_token_id"],
                  "transformers_version": transformers.__version__}
    if style == "cadre":
        model = oracle.Model(directory)
        logits = lambda ids: oracle.forward(model, ids)
    else:
        model = load_reference(directory)
        with tempfile.TemporaryDirectory() as scratch:
            model.save_pretrained(scratch)
            back = load_file(Path(scratch) / "model.safetensors")
            assert back.keys() == tensors.keys(), sorted(back.keys() ^ tensors.keys())
            assert all(torch.equal(back[n], tensors[n]) for n in tensors)
            shutil.copy(Path(scratch) / "model.safetensors", directory)
            if style == "transformers":
                shutil.copy(Path(scratch) / "config.json", directory)
            if name == "llama4_text":
                write_wrapped(c, tensors, directory.with_name(llama4.WRAPPED))
            if name == SHARDED:
                write_sharded(model, directory.with_name(name + "_sharded"), directory)
        if style == "transformers":
            model = load_reference(directory)     # with the config as written
        logits = lambda ids: reference_logits(model, ids)
    (directory / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    loaded = transformers.PreTrainedTokenizerFast.from_pretrained(directory)
    text = loaded.apply_chat_template([{"role": "user", "content": "and then?"}], tokenize=False, add_generation_prompt=True)
    assert "and then?" in loaded.decode(loaded(text, add_special_tokens=False)["input_ids"])
    return logits


def same_as_published(name, directory, logits):
    """Two cadre_moe checkpoints are published families in disguise; transformers must see the same logits in them."""
    c = json.loads((directory / "config.json").read_text())
    if c["model_type"] != "cadre_moe":
        return
    tensors = {n: t.float() for n, t in load_file(directory / "model.safetensors").items()}
    layers, experts = range(c["num_hidden_layers"]), range(c["num_experts"])
    if name == "cadre_moe_all":                   # all experts with weight one: one wide dense FFN
        c |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"],
              "intermediate_size": c["num_experts"] * c["moe_intermediate_size"]}
        for i in layers:
            for part, side in (("gate", 0), ("up", 0), ("down", 1)):
                old = [tensors.pop(f"model.layers.{i}.mlp.experts.{j}.{part}_proj.weight") for j in experts]
                tensors[f"model.layers.{i}.mlp.{part}_proj.weight"] = torch.cat(old, side)
            del tensors[f"model.layers.{i}.mlp.gate.weight"]
    elif name == "cadre_moe_groups":              # GLM-4.5's gate, with the whole head rotated
        r = c["moe_router"]
        c |= {"model_type": "glm4_moe", "architectures": ["Glm4MoeForCausalLM"], "n_routed_experts": c["num_experts"],
              "partial_rotary_factor": 1.0, "first_k_dense_replace": 0, "n_group": r["groups"]["n"],
              "topk_group": r["groups"]["topk"], "routed_scaling_factor": r["scale"], "norm_topk_prob": True,
              "n_shared_experts": 1, "moe_intermediate_size": c["moe_intermediate_size"]}
        tensors = {n.replace("shared_expert.", "shared_experts."): t for n, t in tensors.items()}
    elif name == "cadre_moe_raw":                 # softmax over the selected is Mixtral's softmax, normalised over them
        c |= {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": c["num_experts"],
              "intermediate_size": c["moe_intermediate_size"]}
        names = {".mlp.": ".block_sparse_moe.", "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
        for old in list(tensors):
            new = old
            for a, b in names.items():
                new = new.replace(a, b)
            tensors[new] = tensors.pop(old)
    else:
        return
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "config.json").write_text(json.dumps(c | {"torch_dtype": "float32"}))
        save_file(tensors, Path(scratch) / "model.safetensors", metadata={"format": "pt"})
        ids = np.random.default_rng(1).integers(0, c["vocab_size"], 40).tolist()
        want, got = reference_logits(load_reference(scratch), ids), logits(ids)
        assert (got - want).abs().max() < TOLERANCE / 4 * want.std(), (got - want).abs().max()


def write_wrapped(c, tensors, directory):
    """The text model as it is released: inside the configuration of a model with eyes, which stay shut here."""
    directory.mkdir(exist_ok=True)
    text = {k: v for k, v in c.items() if k not in ("architectures", "torch_dtype", "use_cache")}
    outer = {"architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4", "boi_token_index": 3,
             "eoi_token_index": 4, "image_token_index": 5, "text_config": text, "torch_dtype": "float32",
             "tie_word_embeddings": False, "vision_config": {"model_type": "llama4_vision_model", "hidden_size": 8}}
    (directory / "config.json").write_text(json.dumps(outer, indent=2) + "\n")
    out = {"language_model." + n: t for n, t in tensors.items()}
    out["multi_modal_projector.linear_1.weight"] = torch.ones(4, 8)
    save_file(out, directory / "model.safetensors", metadata={"format": "pt"})


def write_sharded(model, directory, single):
    size = (single / "model.safetensors").stat().st_size
    directory.mkdir(exist_ok=True)
    model.save_pretrained(directory, max_shard_size=f"{size * 6 // 10000}KB")
    files = sorted(p.name for p in directory.glob("*.safetensors"))
    assert len(files) == 2, files


def choose_prompts(name, directory, logits):
    """Random ids, redrawn until no argmax and no expert selection hangs on rounding. Returns tensors to store."""
    _, seed, _, _ = MODELS[name]
    exact, single = oracle.Model(directory, torch.float64), oracle.Model(directory)
    vocab = exact.config["vocab_size"]
    rng = np.random.default_rng([seed, 999])
    out, worst = {}, {"vs float64": 0.0, "vs oracle": 0.0}
    index = 0
    while index < len(LENGTHS):
        ids = rng.integers(0, vocab, LENGTHS[index]).tolist()
        got = logits(ids)
        trace = {"experts": [], "gap": []}
        want = oracle.forward(exact, ids, trace=trace)
        unit = got.std().item()
        top = want.topk(2, -1).values
        if (top[:, 0] - top[:, 1]).min() < 20 * TOLERANCE * unit or any(g.min() < 5e-4 for g in trace["gap"]):
            continue
        assert unit >= 1.0, f"{name}: logits have standard deviation {unit:.2f}"
        worst["vs float64"] = max(worst["vs float64"], (got - want).abs().max().item() / unit)
        worst["vs oracle"] = max(worst["vs oracle"], (got - oracle.forward(single, ids)).abs().max().item() / unit)
        if index == 0:
            tail, gap = greedy(logits, ids)
            eos = exact.config["eos_token_id"]
            if gap < 20 * TOLERANCE * unit or set(tail) & set(eos if isinstance(eos, list) else [eos]):
                continue
            out["greedy.0"] = torch.tensor(tail, dtype=torch.int32)
        out[f"ids.{index}"] = torch.tensor(ids, dtype=torch.int32)
        out[f"logits.{index}"] = got.contiguous()
        if trace["experts"]:
            out[f"experts.{index}"] = torch.stack(trace["experts"]).to(torch.int32).contiguous()
        index += 1
    assert worst["vs float64"] < TOLERANCE / 4 and worst["vs oracle"] < TOLERANCE / 4, (name, worst)
    if "experts.0" in out:
        check_selections(name, torch.cat([out[f"experts.{i}"] for i in range(len(LENGTHS))], 1), exact)
    return out, worst


def greedy(logits, ids):
    ids, tail, gap = list(ids), [], float("inf")
    for _ in range(GREEDY):
        top = logits(ids)[-1].topk(2)
        gap = min(gap, (top.values[0] - top.values[1]).item())
        tail.append(int(top.indices[0]))
        ids.append(tail[-1])
    return tail, gap


def check_selections(name, experts, model):
    """experts [L',T,K]: every expert of every layer is used, none always (unless all are selected)."""
    total = experts.max().item() + 1
    for layer in experts:
        load = torch.bincount(layer[layer >= 0].long(), minlength=total)
        assert load.min() > 0, f"{name}: an expert is never selected: {load.tolist()}"
        if layer.shape[1] < total:
            assert load.max() < layer.shape[0], f"{name}: an expert is always selected: {load.tolist()}"


def mutation_table(name, directory, data):
    """How far each mistake moves the logits, per prompt, in units of their standard deviation."""
    m = oracle.Model(directory, torch.float64)
    rows = []
    for wrong in oracle.MUTATIONS:
        if not oracle.applies(m, wrong):
            continue
        moves = []
        for i in range(len(LENGTHS)):
            want = data[f"logits.{i}"].double()
            got = oracle.forward(m, data[f"ids.{i}"].tolist(), wrong)
            moves.append(((got - want).abs().max() / want.std()).item())
        rows.append((name, wrong, moves))
    for tensor in list(m.w):                      # and every single tensor has a say
        if ".gate." in tensor and not oracle.applies(m, "expert_order"):
            continue                              # unless all experts are selected with weight one
        keep = m.w[tensor]
        m.w[tensor] = (keep.roll(1, 0) if keep.shape[0] > 1 and (keep.dim() > 1 or tensor.endswith("correction_bias"))
                       else keep * 1.1)
        moves = [((oracle.forward(m, data[f"ids.{i}"].tolist()) - data[f"logits.{i}"].double()).abs().max()
                  / data[f"logits.{i}"].double().std()).item() for i in range(len(LENGTHS))]
        m.w[tensor] = keep
        rows.append((name, "tensor " + tensor, moves))
    weak = [r for r in rows if max(r[2]) < VISIBLE]
    return rows, weak


def attention_spread(directory, data):
    """Mean of the largest attention weight at the last position would be 1/T if uniform and 1 if one-hot; recorded for people."""
    m = oracle.Model(directory)
    picked = []
    real = torch.softmax

    def watch(s, dim):
        p = real(s, dim)
        if s.dim() == 2 and s.shape[0] == s.shape[1]:
            picked.append(p[-1].max().item())
        return p

    torch.softmax = watch
    try:
        oracle.forward(m, data["ids.2"].tolist())
    finally:
        torch.softmax = real
    return float(np.mean(picked))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--only", help="make this checkpoint alone")
    parser.add_argument("--keep-weak", action="store_true", help="report weak mutations but write the data (for tuning)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    bad = 0
    for name in MODELS:
        if args.only and name != args.only:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch) / name
            directory.mkdir()
            logits = write_model(name, directory)
            same_as_published(name, directory, logits)
            data, worst = choose_prompts(name, directory, logits)
            rows, weak = mutation_table(name, directory, data)
            spread = attention_spread(directory, data)
            for _, wrong, moves in weak:
                print(f"{name}: '{wrong}' moves the logits by only " + " ".join(f"{v:.1e}" for v in moves))
            bad += len(weak)
            save_file(data, directory / "logits.safetensors")
            named = [r for r in rows if not r[1].startswith("tensor ")]
            least = min(named, key=lambda r: max(r[2]))
            print(f"{name}: std {data['logits.0'].std():.2f}, float32 error {worst['vs float64']:.1e}, oracle differs by "
                  f"{worst['vs oracle']:.1e}, largest attention weight {spread:.2f}, weakest mutation {least[1]} "
                  f"{max(least[2]):.3f}, {sum(p.stat().st_size for p in directory.iterdir()) // 1024} KiB")
            write_table(directory / "mutations.tsv", named)
            if weak and not args.keep_weak:
                continue
            for source in Path(scratch).iterdir():
                target = args.out / source.name
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(source, target)
                if source.name != name:
                    for path in directory.iterdir():
                        if path.name not in ("config.json", "model.safetensors", "mutations.tsv"):
                            shutil.copy(path, target)
                for path in target.iterdir():
                    path.chmod(0o644)
    return 1 if bad else 0


def write_table(path, table):
    lines = ["# mutation\tlargest move of a logit per prompt, in standard deviations of the logits\tmeaning"]
    for _, wrong, moves in table:
        lines.append(f"{wrong}\t{' '.join(f'{v:.3g}' for v in moves)}\t{oracle.MUTATIONS[wrong]}")
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
