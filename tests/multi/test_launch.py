#!/usr/bin/env python3
"""test_launch.py - launches that cannot work: each says why in one clear line within seconds, exits non-zero and leaves no
process."""

import json
import shutil
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

from cases import case, main, note
from cluster import Cluster, Front, Keys, Process, by_hand, check, mpirun, options_of, run, same, until

QUICK = 10  # seconds from start to the end of a launch that cannot work, on a busy machine


def serve(p, model, fabric="mem", **options):
    return Process(
        [
            p.cadre,
            "serve",
            model,
            "--listen",
            options.pop("listen", "tcp://127.0.0.1:*"),
            "--fabric",
            fabric,
            *options_of({"threads": 1, "workers": 2, **options}),
        ]
    )


def refuses(p, model, words, fabric="mem", status=1, **options):
    with serve(p, model, fabric, **options) as process:
        r = process.wait(QUICK * p.slow)
        check(r.status == status, f"exit status {r.status}, wanted {status}: {r.err[-600:]!r}")
        process.gone("after a launch that cannot work")
        telling = [line for line in r.err.splitlines() if all(w in line for w in words)]
        check(telling, f"no line says {words}: {r.err!r}")
        check(len(r.err.splitlines()) <= 6, f"too many lines: {r.err!r}")
        check("clients" not in r.out, "a banner of a launch that failed")
        note(f"{r.seconds:.1f} s: {telling[-1][:300]}")


@contextmanager
def copy_of(p, family):
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / family
        shutil.copytree(p.golden(family), model)
        yield model


def change_json(file, change):
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


@case
def a_model_that_is_not_there(p):
    refuses(p, "/nowhere/at/all", ["/nowhere/at/all"])
    with tempfile.TemporaryDirectory() as folder:
        refuses(p, folder, ["config.json"])
    with tempfile.NamedTemporaryFile() as f:
        refuses(p, f.name, [f.name])


@case
def a_model_with_missing_files(p):
    with copy_of(p, "mixtral") as model:
        (model / "tokenizer.json").unlink()
        refuses(p, model, ["tokenizer.json"])
    with copy_of(p, "mixtral") as model:
        (model / "model.safetensors").unlink()
        refuses(p, model, ["safetensors"])
    with copy_of(p, "mixtral_sharded") as model:
        (model / "model-00002-of-00002.safetensors").unlink()
        refuses(p, model, ["model-00002-of-00002.safetensors"])


@case
def broken_weights(p):
    for fabric in ("mem", "mpi"):
        with copy_of(p, "mixtral") as model:
            file = model / "model.safetensors"
            file.write_bytes(file.read_bytes()[:-5000])
            refuses(p, model, ["model.safetensors"], fabric)
    with copy_of(p, "mixtral") as model:
        file = model / "model.safetensors"
        file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:])
        refuses(p, model, ["model.safetensors"])


@case
def a_config_that_does_not_fit_the_weights(p):
    for key, value, words in (
        ("hidden_size", 48, ["48"]),
        ("num_local_experts", 9, ["[9, 40]", "[8, 40]"]),
        ("vocab_size", 300, ["300"]),
        ("num_hidden_layers", 2000000000, ["num_hidden_layers"]),
        ("model_type", "mamba", ["mamba"]),
    ):
        with copy_of(p, "mixtral") as model:
            change_json(model / "config.json", lambda d, k=key, v=value: d.update({k: v}))
            refuses(p, model, words)


@case
def a_tokenizer_that_does_not_fit_the_model(p):
    def add(tokenizer):
        vocab = tokenizer["model"]["vocab"]
        vocab.update({f"extra{i}": max(vocab.values()) + 1 + i for i in range(400)})

    with copy_of(p, "mixtral") as model:
        change_json(model / "tokenizer.json", add)
        refuses(p, model, ["tokenizer", "291"])
    with copy_of(p, "mixtral") as model:
        (model / "tokenizer.json").write_text('{"model":')
        refuses(p, model, ["tokenizer.json"])
    with copy_of(p, "mixtral") as model:
        change_json(model / "tokenizer_config.json", lambda d: d.update({"chat_template": "{% for %}"}))
        refuses(p, model, ["template"])


@case
def options_that_cannot_work(p):
    refuses(p, p.golden("mixtral"), ["max-context", "100000", "256"], max_context=100000)
    refuses(p, p.golden("mixtral"), ["workers"], status=2, workers=100000)
    refuses(p, p.golden("mixtral"), ["fabric", "carrier"], "carrier", status=2)
    refuses(p, p.golden("mixtral"), ["does not fit", "worker 0", "0.08 MiB"], memory="80K")
    refuses(p, p.golden("mixtral"), ["listen"], listen="nonsense")
    for config, words in (("workers = none\n", ["workers", "none"]), ("wrkers = 2\n", ["wrkers", "workers"])):
        with tempfile.NamedTemporaryFile("w") as f:
            f.write(config)
            f.flush()
            refuses(p, p.golden("mixtral"), [*words, f.name], status=2, config=f.name)


@case
def workers_that_do_not_know_who_they_are(p):
    for words, says, status in (
        (["--fabric", "shm", "--size", "2"], "SLURM_PROCID", 1),
        (["--fabric", "shm", "--join-timeout", "1"], "gave this worker a rank", 1),  # nobody to ask
        (["--fabric", "auto", "--rank", "3", "--size", "3"], "rank 3 (by --rank) of 3 workers", 1),
        (["--fabric", "ucx", "--rank", "0"], "give --size", 1),
        (["--fabric", "shm", "--rank", "64"], "rank", 2),
        (["--fabric", "shm", "--workers", "2"], "each worker is a process of its own", 2),
        (["--fabric", "mem", "--rank", "0"], "--fabric mem takes no --rank", 2),
        (["--fabric", "mpi", "--size", "2"], "MPI decides", 2),
    ):
        r = run([p.worker, *words, "--connect", "tcp://127.0.0.1:1"])
        check(r.status == status and says in r.err, f"{words}: {r.status} {r.err!r}")
        same(len(r.err.splitlines()), 1, f"lines for {words}")


@case
def placements_that_cannot_work(p):
    for text, words in (
        ("* * 5\n", ["worker 5"]),
        ("* 0-6 0\n", ["expert 7"]),
        ("* 0-9 0\n", ["expert 9"]),
        ("7 * 0\n", ["layer 7"]),
        ("hello\n", ["three fields"]),
        ("", ["expert 0"]),
    ):
        with tempfile.NamedTemporaryFile("w", suffix=".placement") as f:
            f.write(text)
            f.flush()
            refuses(p, p.golden("mixtral"), [f.name, *words], placement=f.name)
    refuses(p, p.golden("mixtral"), ["/nowhere"], placement="/nowhere")
    with tempfile.NamedTemporaryFile("w") as f:
        f.write("* * 0\n")
        f.flush()
        refuses(p, p.golden("llama"), ["no experts"], placement=f.name)


@case
def a_port_that_is_taken(p):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        where = f"tcp://127.0.0.1:{s.getsockname()[1]}"
        refuses(p, p.golden("mixtral"), [where], listen=where)
    with Cluster(p, p.golden("mixtral")) as c:
        refuses(p, p.golden("mixtral"), [c.endpoint], listen=c.endpoint)
        c.generate(prompt="the first one goes on", max_tokens=3)


@case
def programs_that_are_missing(p):
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(p.cadre, folder)
        alone = Process([f"{folder}/cadre", "serve", p.golden("mixtral")], env={"PATH": "/nowhere"})
        with alone:
            r = alone.wait(QUICK)
            check(r.status == 1 and "cadre-coordinator" in r.err, f"no coordinator: {r.status} {r.err!r}")
        shutil.copy(p.coordinator, folder)
        shutil.copy(p.worker, folder)
        with Process(
            [f"{folder}/cadre", "serve", p.golden("mixtral"), "--fabric", "mpi", "--listen", "tcp://127.0.0.1:*"],
            env={"PATH": "/nowhere"},
        ) as c:
            r = c.wait(QUICK)
            check(r.status == 1 and "mpirun" in r.err, f"no mpirun: {r.status} {r.err!r}")
            c.gone("after a launch without mpirun")


@case
def workers_without_a_coordinator(p):
    for argv in (
        [p.worker, "--connect", "tcp://127.0.0.1:1", "--join-timeout", "1"],
        [p.worker, "--connect", "tcp://127.0.0.1:1", "--join-timeout", "1", "--workers", "3"],
    ):
        with Process(argv) as w:
            r = w.wait(QUICK)
            check(r.status == 1 and "tcp://127.0.0.1:1" in r.err, f"{r.status} {r.err!r}")
            check("coordinator" in r.err, f"what is missing: {r.err!r}")
            note(r.err.strip().splitlines()[-1][:300])
    with Process([p.worker, "--connect", "nonsense"]) as w:
        r = w.wait(QUICK)
        check(r.status in (1, 2) and "nonsense" in r.err, f"{r.status} {r.err!r}")


@case
def endpoints_to_a_descriptor_that_is_not_open(p):
    doors = ["--listen", "tcp://127.0.0.1:*", "--control", "tcp://127.0.0.1:*"]
    with Process([p.coordinator, p.golden("mixtral"), *doors, "--endpoint-fd", "777"]) as c:
        r = c.wait(QUICK)
        check(r.status == 1 and "endpoint-fd 777" in r.err, f"{r.status} {r.err!r}")
    with Process([p.coordinator, p.golden("mixtral"), *doors, "--endpoint-fd", "1"]) as c:
        until(lambda: c.out().count("\n") == 2, "both endpoints on standard output")
        c.send(15)
        same(c.wait(QUICK).status, 0, f"the coordinator {c.err()!r}")


@case
def without_the_key(p):
    """A cluster with a key serves who has it; others are told, counted, and keep nobody from anything."""
    keys, others = Keys(p), Keys(p)
    with Cluster(p, p.golden("mixtral"), fabric="shm", workers=2, key=keys.cluster) as c:
        for key in (None, others.client):
            r = Front(p, c.endpoint, key=key).cadre("generate", prompt="let me in", max_tokens=4)
            check(r.status == 1 and "does not let us in" in r.err, f"with {key}: {r.status} {r.err!r}")
        check(c.status()["strangers"] >= 2, "strangers are counted")
        check(c.generate(prompt="the sea", max_tokens=4)["text"] is not None, "an answer for who has the key")
    r = run([p.worker, "--connect", "tcp://127.0.0.1:1", "--key", keys.client])
    check(r.status == 1 and "a client's" in r.err, f"a worker with a client's key: {r.status} {r.err!r}")
    for listen in ("tcp://*:*", "tcp://0.0.0.0:*"):
        with serve(p, p.golden("mixtral"), listen=listen) as c:
            r = c.wait(QUICK)
            check(r.status == 1 and "cadre keygen" in r.err, f"listening everywhere without a key: {r.status} {r.err!r}")


@case
def another_number_of_workers(p):
    for joined in ("1", "3"):
        with by_hand(p, p.golden("mixtral"), "--workers", "2", "--fabric", "mem") as (coordinator, _, control):
            with Process([p.worker, "--connect", control, "--workers", joined, "--join-timeout", "3"]) as w:
                r = w.wait(QUICK)
                check(r.status == 1, f"{joined} workers of 2: {r.status} {r.err!r}")
                check("2" in r.err and joined in r.err, f"both numbers: {r.err!r}")
                note(r.err.strip().splitlines()[-1][:300])
            check(not coordinator.running() or coordinator.send(15) or coordinator.wait(QUICK), "the coordinator ends")


@case
def another_fabric(p):
    with by_hand(p, p.golden("mixtral"), "--workers", "1", "--fabric", "mpi") as (coordinator, _, control):
        with Process([p.worker, "--connect", control, "--fabric", "mem", "--workers", "1", "--join-timeout", "3"]) as w:
            r = w.wait(QUICK)
            check(r.status == 1 and "mpi" in r.err and "mem" in r.err, f"{r.status} {r.err!r}")


@case
def a_request_before_the_workers_came(p):
    with by_hand(p, p.golden("mixtral"), "--workers", "2") as (coordinator, listen, _):
        front = Front(p, listen)
        r = front.cadre("generate", prompt="early", max_tokens=4, timeout=4000)
        check(r.status == 1 and ("UNAVAILABLE" in r.err or "DEADLINE" in r.err), f"{r.status} {r.err!r}")
        same(front.cadre("status", "-q").status, 3, "status while loading")
        same([w["state"] for w in front.cadre("status", "--json").json()["workers"]], ["expected"] * 2, "workers")
        coordinator.send(15)
        same(coordinator.wait(QUICK).status, 0, "the coordinator, told to stop while waiting for workers")


@case
def another_model_on_the_worker(p):
    """Equal copies are welcome; what differs in shape or settings is refused (weights are not read for that)."""
    with copy_of(p, "mixtral") as copy, copy_of(p, "mixtral") as changed:
        change_json(changed / "config.json", lambda d: d.update({"rms_norm_eps": 0.001}))
        for model, word in ((str(copy), None), (p.golden("olmoe"), "olmoe"), (str(changed), "fingerprint")):
            with by_hand(p, p.golden("mixtral"), "--workers", "1") as (_, listen, control):
                with Process([p.worker, "--connect", control, "--model", model]) as w:
                    if not word:
                        Front(p, listen).cadre("status", "-q", "--wait", "30").good("with an equal copy")
                        continue
                    r = w.wait(QUICK)
                    check(r.status == 1 and word in r.err, f"{r.status} {r.err!r}")
                    note(r.err.strip().splitlines()[-1][:300])


@case
def workers_of_another_numeric_class(p):
    with by_hand(p, p.golden("mixtral"), "--workers", "2", "--fabric", "mpi") as (coordinator, _, control):
        one = [p.worker, "--fabric", "mpi", "--connect", control, "--isa"]
        with Process([*mpirun(1), *one, "avx2", ":", "-np", "1", *one, "ref"], env=p.mpi_env()) as w:
            r = w.wait(QUICK * p.slow)
            check(r.status != 0 and "avx2" in r.err and "ref" in r.err, f"{r.status} {r.err!r}")
            check(coordinator.wait(QUICK).status == 1, "the coordinator ends: this cluster cannot be")


if __name__ == "__main__":
    main()
