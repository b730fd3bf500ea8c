#!/usr/bin/env python3
"""llamacpp_peer.py - what compare_llamacpp.py runs in its private environment: llama.cpp's side of the comparison.

usage: llamacpp_peer.py gguf CHECKPOINT q8|q4 OUT      writes random_moe.py's checkpoint as a GGUF file of Q8_0 or Q4_0
       llamacpp_peer.py again MODEL.gguf q8|q4 OUT     writes another GGUF file as Q8_0 or Q4_0
       llamacpp_peer.py bench MODEL.gguf THREADS       times it as bench_solo.c times ours, and prints JSON
       llamacpp_peer.py logits MODEL.gguf THREADS IDS  prints the logits after some tokens
       llamacpp_peer.py info                           version and system info as JSON"""

import ctypes
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROMPT, SHORT, STEPS, MOST = 512, 16, 24, 32  # as bench_solo.c has them


# ---- the model, in their format ----
def tensors(folder):
    """Name and f32 array of every tensor of bf16 safetensors files."""
    import numpy as np

    for path in sorted(Path(folder).glob("*.safetensors")):
        raw = np.memmap(path, np.uint8, "r")
        size = int(raw[:8].view("<u8")[0])
        for name, t in json.loads(bytes(raw[8 : 8 + size])).items():
            if name == "__metadata__":
                continue
            a, b = t["data_offsets"]
            data = raw[8 + size + a : 8 + size + b].view("<u2").astype(np.uint32) << 16
            yield name, data.view(np.float32).reshape(t["shape"])


def write_gguf(folder, fmt, out):
    import gguf
    import numpy as np

    c = json.loads(Path(folder, "config.json").read_text())
    kind = {"q8": gguf.GGMLQuantizationType.Q8_0, "q4": gguf.GGMLQuantizationType.Q4_0}[fmt]
    w = gguf.GGUFWriter(out, "llama", use_temp_file=False)
    w.add_tokenizer_model("no_vocab")
    w.add_vocab_size(c["vocab_size"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_key_length(c["head_dim"])
    w.add_value_length(c["head_dim"])
    w.add_rope_dimension_count(c["head_dim"])
    w.add_rope_freq_base(c["rope_theta"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_expert_count(c["num_local_experts"])
    w.add_expert_used_count(c["num_experts_per_tok"])

    def add(name, a, quantise=True):
        if quantise:
            w.add_tensor(name, gguf.quants.quantize(a, kind), raw_dtype=kind)
        else:
            w.add_tensor(name, np.ascontiguousarray(a, np.float32))

    def turned(a, heads):  # their rotation takes neighbours in pairs
        return np.ascontiguousarray(a.reshape(heads, 2, a.shape[0] // heads // 2, a.shape[1]).swapaxes(1, 2).reshape(a.shape))

    whole = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output"}
    part = {"self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm",
            "post_attention_layernorm": "ffn_norm", "block_sparse_moe.gate": "ffn_gate_inp"}  # fmt: skip
    expert = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}
    waiting = {}
    for name, a in tensors(folder):
        if name in whole:
            add(whole[name] + ".weight", a, a.ndim > 1)
            continue
        _, _, layer, rest = name.split(".", 3)
        rest = rest.removesuffix(".weight")
        if ".experts." in rest:
            _, _, e, which = rest.split(".")
            some = waiting.setdefault((layer, which), {})
            some[int(e)] = gguf.quants.quantize(a, kind)
            if len(some) == c["num_local_experts"]:
                stacked = np.stack([some[i] for i in range(len(some))])
                w.add_tensor(f"blk.{layer}.{expert[which]}.weight", stacked, raw_dtype=kind)
                del waiting[(layer, which)]
        elif rest == "self_attn.q_proj":
            add(f"blk.{layer}.attn_q.weight", turned(a, c["num_attention_heads"]))
        elif rest == "self_attn.k_proj":
            add(f"blk.{layer}.attn_k.weight", turned(a, c["num_key_value_heads"]))
        else:
            add(f"blk.{layer}.{part[rest]}.weight", a, a.ndim > 1 and rest != "block_sparse_moe.gate")
    if waiting:
        raise SystemExit(f"{folder}: experts are missing: {sorted(waiting)}")
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_again(path, fmt, out):
    import llama_cpp as l

    p = l.llama_model_quantize_default_params()
    p.ftype = {"q8": l.LLAMA_FTYPE_MOSTLY_Q8_0, "q4": l.LLAMA_FTYPE_MOSTLY_Q4_0}[fmt]
    p.allow_requantize, p.nthread = True, os.cpu_count()
    if l.llama_model_quantize(str(path).encode(), str(out).encode(), p):
        raise SystemExit(f"llama.cpp cannot write {out}")


# ---- its engine, by its C interface ----
class Peer:
    def __init__(self, path, threads):
        import llama_cpp as l

        self.l, self.threads = l, threads
        self.quiet = l.llama_log_callback(lambda *_: None)
        l.llama_log_set(self.quiet, ctypes.c_void_p())
        l.llama_backend_init()
        p = l.llama_model_default_params()
        p.n_gpu_layers = 0
        self.model = l.llama_model_load_from_file(str(path).encode(), p)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.vocab = l.llama_vocab_n_tokens(l.llama_model_get_vocab(self.model))

    def context(self, sequences, tokens):
        """Room for `tokens` in each of some sequences."""
        p = self.l.llama_context_default_params()
        p.n_ctx, p.n_seq_max = sequences * tokens, sequences
        p.n_batch = p.n_ubatch = max(PROMPT, sequences * SHORT)
        p.n_threads = p.n_threads_batch = self.threads
        p.no_perf = True
        c = self.l.llama_init_from_model(self.model, p)
        if not c:
            raise SystemExit("llama.cpp makes no context")
        return c

    def clear(self, c):
        self.l.llama_memory_clear(self.l.llama_get_memory(c), True)

    def step(self, c, rows):
        """rows: token, position, sequence, whether its logits are wanted. Seconds."""
        b = self.l.llama_batch_init(len(rows), 0, 1)
        b.n_tokens = len(rows)
        for i, (token, pos, seq, wanted) in enumerate(rows):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, pos, 1, wanted
            b.seq_id[i][0] = seq
        start = time.perf_counter()
        rc = self.l.llama_decode(c, b)
        self.l.llama_synchronize(c)
        took = time.perf_counter() - start
        self.l.llama_batch_free(b)
        if rc:
            raise SystemExit(f"llama_decode says {rc}")
        return took


def memory_kib(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0


def bench(path, threads):
    import llama_cpp  # noqa: F401  its own memory is not the model's

    before = memory_kib("VmRSS")
    peer, draw = Peer(path, threads), random.Random(1)

    def prompt(seqs, n):
        return [(draw.randrange(peer.vocab), i, s, i == n - 1) for s in range(seqs) for i in range(n)]

    def read(n):
        peer.clear(one)
        took = peer.step(one, prompt(1, n))
        return {"tokens_per_s": n / took, "ms": took * 1e3}

    def decode(seqs):
        c = peer.context(seqs, 64)
        peer.step(c, prompt(seqs, SHORT))
        times = []
        for i in range(STEPS + 1):
            times.append(peer.step(c, [(draw.randrange(peer.vocab), SHORT + i, s, True) for s in range(seqs)]))
        peer.l.llama_free(c)
        took = statistics.fmean(times[1:])
        return {"tokens_per_s": seqs / took, "ms": took * 1e3}

    one = peer.context(1, PROMPT + SHORT)
    read(PROMPT)  # pages are touched once
    figures = {"prefill_512": read(PROMPT), "first_16": read(SHORT)}
    figures.update({f"decode_{seqs}": decode(seqs) for seqs in (1, 8, MOST)})
    figures["peak_mib"] = (memory_kib("VmHWM") - before) / 1024
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for name, again in (("prefill_512", read(PROMPT)), ("decode_8", decode(8))):
            figures[name + "_beside"] = again["tokens_per_s"] / figures[name]["tokens_per_s"]
    finally:
        busy.kill()
        busy.wait()
    print(json.dumps(figures))


def logits(path, threads, ids):
    peer = Peer(path, threads)
    c = peer.context(1, 64)
    peer.step(c, [(t, i, 0, i == len(ids) - 1) for i, t in enumerate(ids)])
    got = peer.l.llama_get_logits_ith(c, len(ids) - 1)
    print(json.dumps([got[i] for i in range(peer.vocab)]))


def info():
    import llama_cpp as l

    print(json.dumps({"version": l.__version__, "system": l.llama_print_system_info().decode()}))


def main():
    verb, *rest = sys.argv[1:] or ["help"]
    if verb == "gguf" and len(rest) == 3:
        write_gguf(*rest)
    elif verb == "again" and len(rest) == 3:
        write_again(*rest)
    elif verb == "bench" and len(rest) == 2:
        bench(rest[0], int(rest[1]))
    elif verb == "logits" and len(rest) == 3:
        logits(rest[0], int(rest[1]), [int(i) for i in rest[2].split(",")])
    elif verb == "info":
        info()
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
