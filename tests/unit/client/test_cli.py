#!/usr/bin/env python3
"""The command line against a made-up server: what is printed where, exit statuses, Ctrl-C, and how serve starts and ends things.

usage: test_cli.py CADRE FAKE_SERVER HELLO [NAME...]
"""
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

LIMIT = 30  # seconds for any one thing


class Server:
    """The fake cluster, as a process."""

    def __init__(self):
        self.process = subprocess.Popen([FAKE, "model"], stdout=subprocess.PIPE, text=True)
        self.endpoint = self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def cadre(*args, **more):
    return subprocess.run([CADRE, *args], capture_output=True, text=True, timeout=LIMIT, **more)


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def wait_for(what, condition):
    until = time.monotonic() + LIMIT
    while not condition():
        expect(time.monotonic() < until, f"waited in vain for {what}")
        select.select([], [], [], 0.01)


class Terminal:
    """The far end of a terminal: what was read beyond what was waited for is kept."""

    def __init__(self, fd):
        self.fd, self.got = fd, b""

    def until(self, needle):
        end = time.monotonic() + LIMIT
        while needle not in self.got:
            expect(time.monotonic() < end, f"waited in vain for {needle!r}, got {self.got!r}")
            if select.select([self.fd], [], [], 0.5)[0]:
                self.got += os.read(self.fd, 4096)
        self.got = self.got[self.got.index(needle) + len(needle):]

    def type(self, data):
        os.write(self.fd, data)


# ---- usage ----
def test_usage():
    r = cadre()
    expect(r.returncode == 2 and "generate" in r.stderr and not r.stdout, r)
    r = cadre("help")
    expect(r.returncode == 0 and "experts" in r.stdout, r)
    r = cadre("--version")
    expect(r.returncode == 0 and re.fullmatch(r"cadre \d+\.\d+\.\d+\n", r.stdout), r)
    for wrong, right in (("generat", "generate"), ("stauts", "status"), ("exp", "experts")):
        r = cadre(wrong)
        expect(r.returncode == 2 and f"did you mean '{right}'" in r.stderr, r)
    expect("lists them" in cadre("xyzzy").stderr, "no verb is near xyzzy")
    for verb in ("serve", "generate", "chat", "status", "experts", "tokenize"):
        r = cadre("help", verb)
        expect(r.returncode == 0 and r.stdout.startswith(f"Usage: cadre {verb}") and not r.stderr, r)
        expect(cadre(verb, "--help").stdout == r.stdout, f"two helps of {verb} differ")


def test_refusals():
    for args, says in (
        (["--prompt", "x", "--temperature", "-1"], "temperature: -1 is out of range"),
        (["--prompt", "x", "--temperature", "warm"], "'warm' is not a number"),
        (["--prompt", "x", "--max-tokens", "-5"], "max-tokens: -5 is out of range"),
        (["--prompt", "x", "--top-p", "1.5"], "top-p: 1.5 is out of range"),
        (["--prompt", "x", "--seed", "-2"], "seed: -2 is out of range"),
        (["--prompt", "x", "--temprature", "1"], "did you mean 'temperature'"),
        (["--prompt", "x", "--logprobs", "2"], "--logprobs needs --json"),
        (["--prompt", "x", "-"], "exactly one of"),
        ([], "exactly one of"),
        (["hello"], "unexpected argument 'hello'"),
    ):
        r = cadre("generate", *args)
        expect(r.returncode == 2 and says in r.stderr and not r.stdout, r)
    r = cadre("generate", "--prompt-file", "/no/such/file")
    expect(r.returncode == 1 and "No such file" in r.stderr, r)
    r = cadre("generate", "--prompt", "x", "--connect", "nowhere")
    expect(r.returncode == 1 and "INVALID_ARGUMENT" in r.stderr, r)
    expect(cadre("serve").returncode == 2, "serve needs a model")


# ---- generate ----
def test_generate(server):
    to = ("--connect", server.endpoint)
    r = cadre("generate", *to, "--prompt", "the sea is wide")
    expect(r.returncode == 0 and r.stdout == "the sea is wide\n" and r.stderr == "", r)
    r = cadre("generate", *to, "--prompt", "the sea", "--verbose", "--no-stream")
    expect(r.stdout == "the sea\n" and re.search(r"2 generated \(stop\), TTFT \d+ ms", r.stderr), r)
    r = cadre("generate", *to, "-", input="from the pipe")
    expect(r.stdout == "from the pipe\n", r)
    with tempfile.NamedTemporaryFile("wb") as f:
        f.write("Grüße aus der Datei".encode())
        f.flush()
        r = cadre("generate", *to, "--prompt-file", f.name)
        expect(r.stdout == "Grüße aus der Datei\n", r)
        f.write(b"\xff")
        f.flush()
        r = cadre("generate", *to, "--prompt-file", f.name)
        expect(r.returncode == 1 and "not valid UTF-8: byte 21" in r.stderr, r)
    r = cadre("generate", *to, "--prompt", "hi", "--system", "be kind")
    expect(r.stdout == "system: be kind\nuser: hi\n\n", r)
    r = cadre("generate", *to, "--prompt", "refuse")
    expect(r.returncode == 1 and r.stdout == "" and r.stderr == "cadre generate: INVALID_ARGUMENT: refused as asked\n", r)
    r = cadre("generate", *to, "--prompt", "hold", "--timeout", "100")
    expect(r.returncode == 1 and "DEADLINE_EXCEEDED" in r.stderr, r)
    expect(cadre("generate", *to, "--prompt", "").returncode == 0, "an empty prompt is the server's business")


def test_generate_json(server):
    args = ("generate", "--connect", server.endpoint, "--prompt", "count 20", "--json")
    r = cadre(*args, "--logprobs", "1", "--seed", "7")
    a = json.loads(r.stdout)
    expect(list(a) == ["text", "token_ids", "logprobs", "finish_reason", "usage", "model", "seed", "timing"], list(a))
    expect(a["text"] == "".join(f"{i} " for i in range(20)) and a["token_ids"] == list(range(100, 120)), a)
    expect(a["finish_reason"] == "length" and a["seed"] == 7 and a["model"] == "fake", a)
    expect(a["usage"] == {"prompt_tokens": 3, "completion_tokens": 20, "total_tokens": 23}, a["usage"])
    expect(a["logprobs"][3]["id"] == 103 and a["logprobs"][3]["top"][0] == {"id": 103, "logprob": a["logprobs"][3]["logprob"], "text": "3 "}, a)
    third = struct.unpack("f", struct.pack("f", -0.1))[0] * 3
    expect(struct.pack("f", a["logprobs"][3]["logprob"]) == struct.pack("f", third), "logprobs are exact floats")
    expect("seed" not in json.loads(cadre(*args).stdout) and "logprobs" not in json.loads(cadre(*args).stdout), "only what was asked for")
    cut = [re.sub(r'"timing":.*', "", cadre(*args).stdout) for _ in range(2)]
    expect(cut[0] == cut[1], "reproducible")
    tricky = 'a"b\\c\n\t\x01 é 😀 x'
    a = json.loads(cadre("generate", "--connect", server.endpoint, "--json", "-", input=tricky).stdout)
    expect(a["text"] == tricky, a)


def start_generate(server, prompt, *more):
    return subprocess.Popen([CADRE, "generate", "--connect", server.endpoint, "--prompt", prompt, *more], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def test_interrupt(server):
    p = start_generate(server, "hold", "--chat")
    wait_for("signal handler", lambda: handles(p.pid, signal.SIGINT))
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=LIMIT)
    expect(p.returncode == 130 and "cancelled after 0 tokens" in err and out == "", (p.returncode, out, err))


def handles(pid, number):
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = int(re.search(r"SigCgt:\s*([0-9a-f]+)", text).group(1), 16)
    return bool(caught >> (number - 1) & 1)


def test_interrupt_twice(server):
    p = start_generate(server, "mute")  # no End will come
    wait_for("signal handler", lambda: handles(p.pid, signal.SIGINT))
    p.send_signal(signal.SIGINT)
    # Two signals that are delivered together may count as one, so the second waits until the first was acted upon.
    expect("cancelling" in p.stderr.readline(), "the first interrupt is acknowledged")
    p.send_signal(signal.SIGINT)
    err = p.stderr.read()  # and not communicate(), which knows nothing of what readline() read beyond its line
    expect(p.wait(LIMIT) == 130 and "cancelled after 0 tokens" in err, (p.returncode, err))


def test_server_dies(server):
    p = start_generate(server, "hold")
    wait_for("a running request", lambda: running(server))
    server.process.kill()
    out, err = p.communicate(timeout=LIMIT)
    expect(p.returncode == 1 and "was lost" in err, (p.returncode, out, err))


# ---- chat ----
def test_chat_pipe(server):
    r = cadre("chat", "--connect", server.endpoint, "--system", "be brief", input="hello\n\n/what\nagain\n/reset\nthird\n/quit\nnever\n")
    expect(r.returncode == 0, r)
    answers = r.stdout.split("\n\n")
    expect(answers[0] == "system: be brief\nuser: hello", answers)
    expect("user: hello" in answers[1] and "assistant: " in answers[1] and "user: again" in r.stdout, answers)
    expect("system: be brief\nuser: third" in r.stdout and r.stdout.count("hello") == r.stdout[:r.stdout.index("third")].count("hello"), r)
    expect("there is no command '/what'" in r.stderr and "never" not in r.stdout, r)
    r = cadre("chat", "--connect", server.endpoint, input="refuse\n")
    expect(r.returncode == 1 and "refused as asked" in r.stderr, r)
    r = cadre("chat", "--connect", server.endpoint, input="garbage\n")
    expect(r.returncode == 1 and "cannot be read" in r.stderr, r)
    r = cadre("chat", "--connect", server.endpoint, input="")
    expect(r.returncode == 0 and r.stdout == "", r)


def test_chat_terminal(server):
    main, side = pty.openpty()
    p = subprocess.Popen(["setsid", "--ctty", CADRE, "chat", "--connect", server.endpoint], stdin=side, stdout=side, stderr=side)
    os.close(side)
    t = Terminal(main)
    t.until(b"> ")
    t.type(b"hold\n")
    # Ctrl-C cancels the answer, not the chat. Before the request is out it counts as one at the prompt, so wait for its call.
    wait_for("a running request", lambda: running(server))
    t.type(b"\x03")
    t.until(b"(cancelled)")
    t.until(b"> ")
    t.type(b"fine\n")
    t.until(b"user: fine")
    t.until(b"> ")
    t.type(b"\x03")
    t.until(b"Ctrl-C again")
    t.type(b"\x03")
    p.wait(timeout=LIMIT)
    os.close(main)
    expect(p.returncode == 130, p.returncode)


def running(server):
    return json.loads(cadre("status", "--json", "--connect", server.endpoint).stdout)["running"] > 0


# ---- status, experts, tokenize ----
def test_status(server):
    to = ("--connect", server.endpoint)
    r = cadre("status", *to)
    expect(r.returncode == 3 and "load 60%" in r.stdout, r)
    r = cadre("status", *to, "--wait", "20")
    expect(r.returncode == 0 and "fake (fake_moe) is serving" in r.stdout and "0-3" in r.stdout and "3.00 MiB" in r.stdout, r)
    a = json.loads(cadre("status", *to, "-o", "json").stdout)
    expect(a["state"] == "serving" and [w["rank"] for w in a["workers"]] == [0, 1] and a["listen"] == server.endpoint, a)
    expect(cadre("status", *to, "--json").stdout.startswith('{"state":"serving"'), "stable keys")
    r = cadre("status", *to, "--links")
    expect(r.returncode == 0 and "worker 0: the others wait for it during 62% of their steps" in r.stdout, r)
    expect(re.search(r"0 +1 +2.00 KiB +5 +1.5s +5 +16us +65.5ms +0.0% +60.0% +0.0% +0.0% +40.0%$", r.stdout, re.M) and re.search(r"1 +0 .* <1us +4us", r.stdout), r)
    expect(re.search(r"extra +stale +duplicate +bad.*\n +0 +1 +3 +2 +4 +1$", r.stdout, re.M) and r.stdout.count("\n   1    0 ") == 1, r)
    expect("90 in one piece, 7 in two microbatches" in r.stdout and re.search(r"^ +1 +4000 +0.250% +3000us$", r.stdout, re.M), r)
    a = json.loads(cadre("status", *to, "--links", "--json").stdout)
    expect((a["steps_whole"], a["steps_halved"], a["tasks"][1]) == (90, 7, {"rank": 1, "tasks": 4000, "long": 10, "longest_us": 3000}), a)
    expect([a["links"][0][k] for k in ("extra", "stale", "duplicate", "bad")] == [3, 2, 4, 1] and a["links"][1]["bad"] == 0, a)
    expect(a["slowest"] == {"rank": 0, "percent": 62} and [k["bytes"] for k in a["links"]] == [2048, 1024], a)
    expect(a["links"][0]["waits"][4] == 3 and len(a["links"][1]["waits"]) == 20, a)
    r = cadre("status", *to, "-q")
    expect(r.returncode == 0 and r.stdout == r.stderr == "", r)
    r = cadre("status", "--connect", "tcp://127.0.0.1:1")
    expect(r.returncode == 3 and "is `cadre serve` running?" in r.stderr, r)


def test_experts(server):
    to = ("--connect", server.endpoint)
    r = cadre("experts", *to)
    expect(r.returncode == 0 and "imb 1.300, balancedness 0.769" in r.stdout and "3 (40.00%)" in r.stdout, r)
    r = cadre("experts", *to, "--layer", "3")
    expect("layer 3: imb 4.000" in r.stdout and re.search(r"2 +1 +100 +100.00%", r.stdout), r)
    r = cadre("experts", *to, "--layer", "2")
    expect(r.returncode == 1 and "layer 2 has no experts; the layers that have some are 1 to 3" in r.stderr, r)
    a = json.loads(cadre("experts", *to, "--json").stdout)
    expect(a["worker_rows"] == [130, 70] and a["layers"][0]["rows"] == [10, 20, 30, 40] and a["layers"][1]["layer"] == 3, a)
    expect(len(json.loads(cadre("experts", *to, "-o", "json", "--layer", "3").stdout)["layers"]) == 1, "one layer")


def test_tokenize(server):
    r = cadre("tokenize", "--connect", server.endpoint, "--prompt", "AB")
    expect(r.returncode == 0 and r.stdout == "65 66\n", r)
    r = cadre("tokenize", "--connect", server.endpoint, "--prompt-file", "-", "--json", input="C")
    expect(json.loads(r.stdout) == {"ids": [67]}, r)


def test_hello(server):
    r = subprocess.run([HELLO, "as an example", server.endpoint], capture_output=True, text=True, timeout=LIMIT)
    expect(r.returncode == 0 and r.stdout == "as an example\n", r)
    r = subprocess.run([HELLO, "refuse", server.endpoint], capture_output=True, text=True, timeout=LIMIT)
    expect(r.returncode == 1 and "INVALID_ARGUMENT: refused as asked" in r.stderr, r)


# ---- serve: our own cadre beside a made-up coordinator and made-up workers ----
WORKER = """#!/bin/sh
# --fabric mem: one process for all ranks; else one per rank, numbered by --rank, mpirun or srun
here=$(dirname "$0")
echo "$@" >> "$here/worker.args"
said=$(echo "$*" | sed -n 's/.*--rank //p' | cut -d' ' -f1)
rank=${said:-${OMPI_COMM_WORLD_RANK:-${SLURM_PROCID:-0}}}
echo $$ > "$here/part.$rank" && mv "$here/part.$rank" "$here/worker-$rank.pid"
if [ -z "$said$OMPI_COMM_WORLD_RANK$SLURM_PROCID" ]; then cp "$here/worker-0.pid" "$here/part.1" && mv "$here/part.1" "$here/worker-1.pid"; fi
[ -e "$here/stubborn" ] && trap '' TERM
while [ -e "$here/endless" ] || kill -0 "$(cat "$here/coordinator.pid")" 2>/dev/null; do sleep 0.05; done
"""
SRUN = """#!/bin/sh
# As much of srun as serve needs: two tasks, ended when it is told to.
here=$(dirname "$0")
echo "$@" > "$here/srun.args"
while [ "$1" != "${1#-}" ]; do [ "$1" = --ntasks ] && shift; shift; done
trap 'kill $(jobs -p); wait; exit 1' TERM
for i in 0 1; do SLURM_PROCID=$i SLURM_NTASKS=2 "$@" & [ $i = 1 ] || first=$!; done
wait $first || { kill $(jobs -p); exit 137; }
wait
"""
COORDINATOR = """#!/bin/sh
here=$(dirname "$0")
echo "$@" > "$here/coordinator.args"
echo $$ > "$here/coordinator.pid"
exec "$here/fake_server" "$@"
"""


class Stage:
    """A folder that looks like an installation, and a `cadre serve` in it."""

    def __init__(self, *flags):
        self.folder = Path(tempfile.mkdtemp())
        shutil.copy(CADRE, self.folder / "cadre")
        shutil.copy(FAKE, self.folder / "fake_server")
        for name, text in (("cadre-worker", WORKER), ("cadre-coordinator", COORDINATOR), ("srun", SRUN)):
            path = self.folder / name
            path.write_text(text)
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        for flag in flags:
            (self.folder / flag).touch()
        self.process = None

    def serve(self, model, *args, **env):
        self.out, self.err = (self.folder / "out").open("w+"), (self.folder / "err").open("w+")
        self.process = subprocess.Popen([self.folder / "cadre", "serve", model, "--listen", "tcp://127.0.0.1:*", "--workers", "2", *args],
                                        stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.err,
                                        env={**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", **env})

    def text(self, name):
        return (self.folder / name).read_text()

    def pids(self):
        return {int(p.read_text()) for p in self.folder.glob("*.pid")}

    def serving(self):
        wait_for("the banner", lambda: "try        cadre generate" in self.text("out") or self.process.poll() is not None)
        expect(self.process.poll() is None, self.text("err"))
        return re.search(r"clients +(\S+)", self.text("out")).group(1)

    def ended(self):
        self.process.wait(timeout=LIMIT)
        wait_for("the end of all processes", lambda: not any(alive(p) for p in self.pids()))
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.pids():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        if self.process:
            self.out.close()
            self.err.close()
        for left in range(50, -1, -1):
            try:
                return shutil.rmtree(self.folder)
            except OSError:  # one that was killed may have written its pid just now
                if not left:
                    raise
                time.sleep(0.1)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_serve_in_order():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with Stage() as s:
            s.serve("model")
            endpoint = s.serving()
            expect("worker 0   experts 0-3" in s.text("out") and "\x1b" not in s.text("out") + s.text("err") and "\r" not in s.text("err"), s.text("out"))
            expect("worker 1: loaded 100%" in s.text("err"), s.text("err"))
            expect(cadre("generate", "--connect", endpoint, "--prompt", "all is well").stdout == "all is well\n", "an answer")
            s.process.send_signal(number)
            expect(s.ended() == 0, s.text("err"))
            expect(len(s.pids()) == 2 and "finishing" in s.text("err"), s.text("err"))


def test_serve_mpi():
    with Stage() as s:
        config = s.folder / "cadre.conf"
        config.write_text("# a cluster\nfabric = mpi\nworkers = 7\n")
        s.serve("model", "--config", config)  # which also says --workers 2: the command line wins
        s.serving()
        expect(len(s.pids()) == 3, s.pids())
        s.process.send_signal(signal.SIGTERM)
        expect(s.ended() == 0, s.text("err"))


def test_serve_processes():
    """Fabrics without a launcher: every worker is a child, told its rank."""
    for fabric in ("shm", "ucx", "auto"):
        with Stage() as s:
            s.serve("model", "--fabric", fabric)
            s.serving()
            expect(len(s.pids()) == 3 and "2 workers over" in s.text("out"), s.text("out"))
            told = sorted(s.text("worker.args").splitlines())
            expect([f"--fabric {fabric}" in line and "--size 2" in line for line in told] == [True, True], told)
            s.process.send_signal(signal.SIGTERM)
            expect(s.ended() == 0, s.text("err"))
    with Stage() as s:
        s.serve("model", "--fabric", "shm")
        s.serving()
        victim = int(s.text("worker-1.pid"))
        os.kill(victim, signal.SIGKILL)
        said = f"worker rank 1 (pid {victim}) was killed by signal 9 (Killed); another is started"
        wait_for("another worker", lambda: said in s.text("err") and int(s.text("worker-1.pid")) != victim)
        s.process.send_signal(signal.SIGTERM)
        expect(s.ended() == 0, s.text("err"))


def test_serve_launchers():
    with Stage() as s:
        s.serve("model", "--fabric", "auto", "--launcher", "srun", "--net-devices", "eth7")
        s.serving()
        expect(len(s.pids()) == 3, s.pids())
        expect("--ntasks 2" in s.text("srun.args") and "--mpi=none" in s.text("srun.args"), s.text("srun.args"))
        expect("--control tcp://*:*" in s.text("coordinator.args"), s.text("coordinator.args"))
        told = s.text("worker.args")
        expect(f"--connect tcp://{socket.gethostname()}:" in told and "--net-devices eth7" in told and "--rank" not in told, told)
        s.process.send_signal(signal.SIGTERM)
        expect(s.ended() == 0, s.text("err"))
    with Stage() as s:
        s.serve("model", "--fabric", "mpi", "--launcher", "srun")
        s.serving()
        expect("--mpi=pmix" in s.text("srun.args"), s.text("srun.args"))
        victim = int(s.text("worker-0.pid"))
        os.kill(victim, signal.SIGKILL)
        wait_for("another step", lambda: "another is started" in s.text("err") and int(s.text("worker-0.pid")) != victim)
    with Stage() as s:  # a Slurm job of several nodes; srun is not asked for
        s.serve("model", "--fabric", "ucx", SLURM_JOB_ID="1", SLURM_JOB_NUM_NODES="2")
        s.serving()
        expect("--ntasks 2" in s.text("srun.args") and "--control tcp://*:*" in s.text("coordinator.args"), s.text("srun.args"))
    with Stage() as s:  # one node: no launcher is needed
        s.serve("model", "--fabric", "ucx", SLURM_JOB_ID="1", SLURM_JOB_NUM_NODES="1")
        s.serving()
        expect("--rank" in s.text("worker.args") and "--control tcp://127.0.0.1:*" in s.text("coordinator.args"), s.text("worker.args"))
    for words, says in (
        (["--fabric", "shm", "--hosts", "a,b"], "stays on one host"),
        (["--hosts", "a,b"], "--fabric mem stays on one host"),
        (["--fabric", "shm", "--launcher", "srun"], "stays on one host"),
        (["--fabric", "ucx", "--launcher", "local", "--hosts", "a"], "takes no --hosts"),
        (["--fabric", "ucx", "--launcher", "srun", "--hosts", "a"], "Slurm has chosen"),
        (["--fabric", "mpi", "--launcher", "local"], "needs a launcher"),
        (["--fabric", "mem", "--launcher", "mpirun"], "needs no launcher"),
    ):
        with Stage() as s:
            s.serve("model", *words)
            expect(s.ended() == 2 and says in s.text("err") and not s.pids(), (words, s.text("err")))


def test_serve_cannot_start():
    with Stage() as s:
        before = time.monotonic()
        s.serve("refuse")
        expect(s.ended() == 1 and time.monotonic() - before < 5, s.text("err"))
        expect("fatal: refuse: no config.json" in s.text("err") and "ended with status 1" in s.text("err") and s.text("out") == "", s.text("err"))
    with Stage() as s:
        s.serve("fail")
        expect(s.ended() == 1 and "it was told to fail" in s.text("err"), s.text("err"))
    with Stage() as s:
        config = s.folder / "cadre.conf"
        config.write_text("workers = 2\nmax-bach = 3\n")
        s.serve("model", "--config", config)
        expect(s.ended() == 2 and "cadre.conf:2: unknown option 'max-bach'; did you mean 'max-batch'?" in s.text("err"), s.text("err"))
    with Stage() as s:
        (s.folder / "cadre-worker").write_text("#!/no/such/shell\n")
        s.serve("model")
        expect(s.ended() == 1 and "cannot start the worker process" in s.text("err"), s.text("err"))
    with Server() as other, Stage() as s:
        s.serve("model", "--listen", other.endpoint)
        expect(s.ended() == 1 and "another program has this port" in s.text("err"), s.text("err"))


def test_serve_a_child_dies():
    with Stage("endless") as s:
        s.serve("model")
        s.serving()
        before = time.monotonic()
        os.kill(int(s.text("coordinator.pid")), signal.SIGKILL)
        expect(s.ended() == 1 and time.monotonic() - before < 5, s.text("err"))
        expect("the coordinator" in s.text("err") and "signal 9 (Killed)" in s.text("err"), s.text("err"))
    with Stage() as s:
        s.serve("model", "--on-death", "end")
        s.serving()
        os.kill(int(s.text("worker-0.pid")), signal.SIGSEGV)
        expect(s.ended() == 1 and "the worker process" in s.text("err") and "signal 11" in s.text("err"), s.text("err"))


def test_serve_a_rank_dies():
    for flags in ([], ["stubborn", "endless"]):
        with Stage(*flags) as s:
            s.serve("model", "--fabric", "mpi", "--on-death", "end")
            s.serving()
            victim = int(s.text("worker-1.pid"))
            before = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            expect(s.ended() == 1 and time.monotonic() - before < 5, (time.monotonic() - before, s.text("err")))
            expect("mpirun" in s.text("err") and "ended with status 137" in s.text("err"), s.text("err"))


def test_serve_stubborn_children():
    with Stage("stubborn", "endless") as s:
        s.serve("model", "--drain", "1")
        s.serving()
        before = time.monotonic()
        s.process.send_signal(signal.SIGTERM)
        expect(s.ended() == 1 and time.monotonic() - before < 12, s.text("err"))
        expect("not everything finished in time" in s.text("err"), s.text("err"))


def test_serve_killed():
    for fabric in ("mem", "mpi"):
        with Stage("endless") as s:
            s.serve("model", "--fabric", fabric)
            s.serving()
            s.process.kill()
            s.process.wait()
            wait_for("the end of all processes", lambda: not any(alive(p) for p in s.pids()))


def run(name):
    """What to say of it, and whether it was good."""
    before, test = time.monotonic(), globals()[name]
    try:
        if test.__code__.co_argcount:
            with Server() as server:
                test(server)
        else:
            test()
    except Exception:  # whatever it was, the other tests shall run
        return f"--- {name}\n{traceback.format_exc()}", False
    return f"{time.monotonic() - before:5.1f} s  {name}", True


def chosen(names):
    for name, test in sorted(globals().items()):
        if not name.startswith("test_") or (names and name not in names):
            continue
        if "mpi" in test.__code__.co_names + test.__code__.co_consts and not shutil.which("mpirun"):
            continue
        yield name


def main():
    global CADRE, FAKE, HELLO
    CADRE, FAKE, HELLO = sys.argv[1:4]
    # Most of it is waiting. No threads: a child that one starts would hold the program open that another is still copying.
    with ProcessPoolExecutor(3) as at_once:
        results = []
        for said, good in at_once.map(run, chosen(sys.argv[4:])):
            print(said, flush=True)
            results.append(good)
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
