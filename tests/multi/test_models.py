#!/usr/bin/env python3
"""test_models.py - the real models, where the build was told about them: the exact one must write the dense model's text, the
sparse one must make sense."""

import json
import shutil
import tempfile
from pathlib import Path

from cases import case, main, note, skip
from cluster import Cluster, Process, check, run, same

REFERENCE = Path(__file__).resolve().parents[1] / "golden/smollm2_dense_greedy.json"


def continuation(p, endpoint, ids, tokens):
    prompt = ",".join(str(i) for i in ids)
    told = run([p.load, "--connect", endpoint, "--ids", prompt, "--tokens", tokens], 120 * p.slow).good("load")
    return [int(word) for word in told.out.split()]


@case
def the_exact_model_writes_the_dense_text(p):
    if not p.exact:
        skip("no -Dmodel_exact")
    with Cluster(p, p.exact, workers=4, fabric="mpi", weights="f32", max_context=512) as c:
        for i, wanted in enumerate(json.loads(REFERENCE.read_text())[:3]):
            got = continuation(p, c.endpoint, wanted["prompt_ids"], len(wanted["ids"]))
            same(got, wanted["ids"], f"tokens of prompt {i} (least margin between two tokens: {wanted['margin']})")


@case
def the_sparse_model_answers(p):
    if not p.sparse:
        skip("no -Dmodel_sparse")
    with Cluster(p, p.sparse, workers=4, fabric="mpi", max_context=1024) as c:
        a = c.generate("--chat", prompt="What is the capital of France?", max_tokens=60)
        check("Paris" in a["text"], f"the answer: {a['text']!r}")
        check("\ufffd" not in a["text"], "broken characters")
        r = c.say("chat", "Name three colors.\n", max_tokens=60).good()
        check(r.out.strip() and "\ufffd" not in r.out, f"the conversation: {r.out!r}")
        note(f"{a['text']!r}")
        with Process([p.load, "--connect", c.endpoint, "--count", "16", "--prompt", "40", "--tokens", "24"]) as asked:
            together = asked.wait(120 * p.slow).good("load").out
        with Process(
            [p.load, "--connect", c.endpoint, "--count", "16", "--prompt", "40", "--tokens", "24", "--at-once", "1"]
        ) as asked:
            same(asked.wait(120 * p.slow).good("load").out, together, "sixteen requests, alone and together")
        e = c.experts()
        note(f"imb over workers {e['imb']:.3f}, rows {e['worker_rows']}")
        same(c.stop().status, 0, "serve")


def spoil(model, folder):
    """A copy whose last norm is NaN."""
    shutil.copytree(model, folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    at = 8 + int.from_bytes(data[:8], "little")
    first, end = json.loads(data[8:at])["model.norm.weight"]["data_offsets"]
    data[at + first : at + end] = b"\xff" * (end - first)
    weights.write_bytes(data)
    return folder


@case
def a_text_is_scored(p):
    model = p.golden("mixtral")
    with tempfile.TemporaryDirectory() as folder:
        text, pack = Path(folder, "text"), Path(folder, "pack")
        text.write_text("The sea is wide, and what the wind says there nobody has written down.\n" * 20)
        fitted = ["pack", model, "-o", pack, "--weights", "q4", "--calibrate", text, "--calibrate-tokens", "600"]
        run([p.cadre, *fitted], 60 * p.slow).good("pack")
        check("nothing was written" in run([p.cadre, *fitted], 60 * p.slow).good("pack").out, "the same again")
        words = ["eval", model, pack, "--text", text, "--weights", "auto", "--window", "64", "--max-tokens", "500", "--json", "-q"]
        first, other = json.loads(run([p.cadre, *words], 60 * p.slow).good("eval").out)["models"]
        same((first["weights"], other["weights"], first["ratio"], first["kl"]), ("bf16", "q4", 1, 0), "what was compared")
        check(other["kl"] > 0 and other["bits_per_weight"] < first["bits_per_weight"], f"figures: {other}")
        lists = ["eval", model, pack, "--text", text, "--weights", "f32,q8", "--max-tokens", "90", "--window", "64", "--json", "-q"]
        scored = json.loads(run([p.cadre, *lists], 60 * p.slow).good("eval").out)["models"]
        same([m["weights"] for m in scored], ["f32", "q8", "q4"], "formats: a pack has one")
        long, few = Path(folder, "long"), ["--max-tokens", "90", "--window", "64", "--json", "-q"]
        long.write_text(text.read_text() * 300)
        several = [run([p.cadre, "eval", model, "--text", t, *few], 60 * p.slow).good("eval").out for t in (text, long)]
        several = [{**json.loads(out)["models"][0], "tokens_per_second": 0} for out in several]
        same(several[1], several[0], "a text, and one that begins with it")
        spoiled = spoil(model, Path(folder, "spoiled"))
        told = run([p.cadre, "eval", spoiled, "--text", text, *few], 60 * p.slow).good("eval").out
        same(json.loads(told, parse_constant=lambda what: check(False, f"{what} is no JSON"))["models"][0]["perplexity"], None, "NaN")
        run([p.cadre, *fitted, "-o", f"{pack}5", "--output-matrix", "q8"], 60 * p.slow).good("pack")
        words[2] = f"{pack}5"
        larger = json.loads(run([p.cadre, *words], 60 * p.slow).good("eval").out)["models"][1]
        check(larger["bits_per_weight"] > other["bits_per_weight"], f"with the output's matrix as q8: {larger}, as q4: {other}")
        fewer = ["pack", model, "-o", f"{pack}3", "--weights", "bf16", "--calibrate", text, "--prune", "0.25", "-q"]
        run([p.cadre, *fewer], 60 * p.slow).good("pack")
        with Cluster(p, f"{pack}3", workers=3, fabric="shm") as c:
            same(sum(w["experts"] for w in c.status()["workers"]), 2 * 6, "experts that are left of 8, in 2 layers")
            c.generate(prompt="the sea", max_tokens=8)
        narrow = ["pack", model, "-o", f"{pack}4", "--weights", "bf16", "--calibrate", text, "--prune", "0.25", "-q"]
        run([p.cadre, *narrow, "--prune-what", "neurons"], 60 * p.slow).good("pack")
        with open(f"{model}/config.json") as was, open(f"{pack}4/config.json") as now:
            was, now = json.load(was), json.load(now)
        width = next(was[k] for k in ("moe_intermediate_size", "intermediate_size") if k in was)
        same(now, {**was, "expert_neurons_kept": round(width * 0.75)}, "config.json of the pack")
        with Cluster(p, f"{pack}4", workers=2, fabric="shm") as c:
            c.generate(prompt="the sea", max_tokens=8)
        for refused, status, told in [
            (["eval", model], 2, "--text"),
            (["eval", model, "--text", f"{text}.not"], 1, "cannot read"),
            (["eval", model, "--text", text, "--weights", "q5"], 1, "q5"),
            (["eval", model, "--text", text, "--window", "100000"], 1, "a window of 100000 tokens"),
            (["pack", model, "-o", f"{pack}2", "--prune", "0.1"], 2, "--prune needs --calibrate"),
            (["pack", model, "-o", f"{pack}2", "--prune-what", "neurons"], 2, "needs --prune"),
            (["pack", model, "-o", f"{pack}2", "--calibrate-tokens", "99"], 2, "needs --calibrate"),
            (["pack", "--verify", pack, "--weights", "q4"], 2, "--quiet alone"),
            (["pack", pack, "-o", f"{pack}2", *"--weights q4 --prune 0.1 --prune-what neurons --calibrate".split(), text],
             1, "is a pack itself"),
            (["pack", pack, "-o", f"{pack}2"], 1, "is a pack itself"),
            (["pack", model, "-o", model, "--weights", "q8", "--calibrate", f"{text}.not"], 1, "is the model itself"),
            (["pack", model, "-o", f"{pack}3", "--weights", "q8", "--calibrate", f"{text}.not"], 1, "take another folder"),
            (["pack", model, "-o", f"{pack}2", "--calibrate", f"{text}.not", "--prune", "0.9"], 1, "a token takes"),
            (["pack", model, "-o", f"{pack}2", "--weights", "q4", "--calibrate", text, "--prune", "0.1", "--prune-what", "neurons"],
             1, "neurons would stay"),
            (["pack", model, "-o", f"{pack}2", "--weights", "bf16", "--calibrate", text], 2, "for --weights q8 and q4"),
            (["pack", model, "-o", f"{pack}2", "--weights", "q8", "--output-matrix", "q4"], 2, "for --weights q4"),
        ]:
            r = run([p.cadre, *refused], 60 * p.slow)
            same(r.status, status, f"{refused}: {r.err!r}")
            check(told in r.err, f"{refused}: {r.err!r}")


@case
def the_sparse_model_on_other_clusters(p):
    if not p.sparse:
        skip("no -Dmodel_sparse")
    words = ["--count", "4", "--prompt", "40", "--tokens", "24", "--whole"]
    told = []
    for shape in ({"workers": 1, "threads": 2}, {"workers": 3}, {"workers": 4, "fabric": "mpi"}):
        with Cluster(p, p.sparse, max_context=512, **shape) as c:
            told.append(run([p.load, "--connect", c.endpoint, *words], 120 * p.slow).good("load").out)
            same(told[-1], told[0], f"ids and logprobs on {shape}")


if __name__ == "__main__":
    main()
