"""cluster.py - a running cluster for tests: started by `cadre serve` or by hand, watched, and gone at the end whatever happens.

Every process of a cluster carries a mark in its environment, so that all of them can be found again: those that mpirun started,
those whose parent died, those that left their process group. A process started by one with a mark extends that mark.
Waiting is always for a condition, with a deadline.
Only what a user has is used: the programs, their output, their exit status.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

PATIENCE = 60  # seconds that anything may take on a busy machine before it counts as hung
MARK = "CADRE_TEST_MARK"


class Failed(Exception):
    """What a test found wrong, in one line."""


def check(condition, message):
    if not condition:
        raise Failed(message)


def same(got, wanted, what):
    if got != wanted:
        raise Failed(f"{what}: got {got!r}, wanted {wanted!r}")


def until(condition, what, seconds=PATIENCE):
    """Polls until condition() is true and returns its value."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"not within {seconds} s: {what}")
        time.sleep(0.02)


class Programs:
    """Where the build put things."""

    def __init__(self, build, data, exact="", sparse="", sanitized=False, soak=False):
        build = Path(build)
        self.build = build
        self.cadre = str(build / "cli/cadre")
        self.coordinator = str(build / "coordinator/cadre-coordinator")
        self.worker = str(build / "worker/cadre-worker")
        self.load = str(build / "tests/multi/load")
        self.hello = str(build / "client/hello")
        self.data = Path(data)
        self.exact, self.sparse = exact, sparse
        self.chaos = str(build / "tests/multi/test_chaos")
        self.sanitized, self.soak = sanitized, soak
        self.slow = 5 if sanitized else 1  # more time

    def mpi_env(self):
        """Open MPI leaks on purpose, from modules that are gone by the time a leak checker asks."""
        return {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"} if self.sanitized else {}

    def golden(self, family):
        return str(self.data / family)


class Result:
    """A finished program: exit status (negative: signal), output, seconds it took."""

    def __init__(self, status, out, err, seconds=0.0):
        self.status, self.out, self.err, self.seconds = status, out, err, seconds

    def json(self):
        try:
            return json.loads(self.out)
        except ValueError as e:
            raise Failed(f"no JSON ({e}) but {self.out[:200]!r}; status {self.status}, {self.err[:300]!r}") from None

    def good(self, what="the command"):
        check(self.status == 0, f"{what} ended with {self.status}: {self.err.strip()[-400:]}")
        return self


class Process:
    """A program in a session of its own, output into files, marked so that all its descendants can be found."""

    open = set()  # all that were not closed: for whoever must clean up when a `with` could not

    def __init__(self, argv, stdin=None, env=None):
        self.mark = f"{os.environ.get(MARK, '')}/{uuid.uuid4().hex}"
        self.popen = None
        Process.open.add(self)
        self.out_file, self.err_file = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self.argv = [str(a) for a in argv]
        self.started = time.monotonic()
        self.popen = subprocess.Popen(
            self.argv,
            stdin=stdin or subprocess.DEVNULL,
            stdout=self.out_file,
            stderr=self.err_file,
            start_new_session=True,
            env={**os.environ, MARK: self.mark, **(env or {})},
        )
        self.pid = self.popen.pid

    @staticmethod
    def _read(f):
        size = os.fstat(f.fileno()).st_size
        return os.pread(f.fileno(), size, 0).decode(errors="replace")

    def out(self):
        return self._read(self.out_file)

    def err(self):
        return self._read(self.err_file)

    def running(self):
        return self.popen.poll() is None

    def send(self, number):
        if self.running():
            os.kill(self.pid, number)

    def wait(self, seconds=PATIENCE):
        try:
            status = self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"still running after {seconds} s: {' '.join(self.argv)[:200]}; {self.err()[-300:]!r}") from None
        return Result(status, self.out(), self.err(), time.monotonic() - self.started)

    def family(self):
        """Pids of all processes that carry our mark and are not zombies."""
        wanted = re.compile(re.escape(f"{MARK}={self.mark}".encode()) + rb"(/|$)")
        found = []
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if any(map(wanted.match, Path(f"/proc/{name}/environ").read_bytes().split(b"\0"))):
                    found.append(int(name))
        return found

    def named(self, program):
        """Those of the family whose executable is called so, oldest pid first."""
        found = []
        for pid in sorted(self.family()):
            with contextlib.suppress(OSError):
                if os.path.basename(os.readlink(f"/proc/{pid}/exe")).split(" ")[0] == program:
                    found.append(pid)
        return found

    def gone(self, what, seconds=10):
        """Nothing of it is left."""
        until(lambda: not self.family(), f"{what}: {len(self.family())} processes left", seconds)

    def close(self):
        for _ in range(50):
            left = self.family()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self.popen:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.popen.wait(0.1)
            if not left and not (self.popen and self.running()):
                break
        Process.open.discard(self)
        self.out_file.close()
        self.err_file.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()


def run(argv, seconds=PATIENCE, stdin=None, env=None):
    with Process(argv, stdin, env) as p:
        return p.wait(seconds)


def options_of(options):
    """max_batch=4 -> ["--max-batch", "4"]; True -> the flag alone; None -> nothing."""
    words = []
    for name, value in options.items():
        if value is None:
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.append(str(value))
    return words


def ports(pid):
    """Where a process listens."""
    links = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(fd))
        except OSError:
            continue
    found = []
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in links:
            found.append(int(fields[1].split(":")[1], 16))
    return found


class Keys:
    """A new cluster's key and its clients', gone with this object."""

    def __init__(self, programs):
        self.folder = tempfile.TemporaryDirectory()
        self.cluster, self.client = (Path(self.folder.name) / name for name in ("cadre.key", "cadre-client.key"))
        run([programs.cadre, "keygen", "-o", self.cluster, "--client-output", self.client]).good("keygen")


class Front:
    """The verbs of `cadre` against one endpoint; `within`: words before each command, of what it shall run in; `key`: where the
    cluster's key is, if it has one."""

    def __init__(self, programs, endpoint, within=(), key=None):
        self.programs, self.endpoint, self.within, self.key = programs, endpoint, list(within), key

    def start(self, verb, *words, stdin=None, **options):
        key = ["--key", self.key] if self.key else []
        words = [self.programs.cadre, verb, *words, "--connect", self.endpoint, *key, *options_of(options)]
        return Process([*self.within, *words], stdin)

    def cadre(self, verb, *words, seconds=PATIENCE, stdin=None, **options):
        with self.start(verb, *words, stdin=stdin, **options) as p:
            return p.wait(seconds)

    def say(self, verb, text, *words, **options):
        """With text on standard input."""
        with tempfile.TemporaryFile() as f:
            f.write(text if isinstance(text, bytes) else text.encode())
            f.seek(0)
            return self.cadre(verb, *words, stdin=f, **options)

    def status(self):
        return self.cadre("status", "--json").json()

    def experts(self):
        return self.cadre("experts", "--json").good("experts").json()

    def until_status(self, condition, what, seconds=PATIENCE):
        return until(lambda: (s := self.status()) and condition(s) and s, what, seconds)

    def idle(self, seconds=PATIENCE):
        """No request inside and no page in use; returns that status."""
        return self.until_status(
            lambda s: not s["running"] and not s["waiting"] and not any(w["kv_pages_used"] for w in s["workers"]),
            "the cluster idle and its pages free",
            seconds,
        )

    def generate(self, *words, **options):
        """The parsed answer of `generate --json`, without "timing"."""
        answer = self.cadre("generate", "--json", *words, **options).good("generate").json()
        del answer["timing"]
        return answer


class Cluster(Front):
    """`cadre serve`, as the command of a job if one is given. As a context manager it is serving inside and gone afterwards."""

    def __init__(self, programs, model, listen="tcp://127.0.0.1:*", within=(), job=(), env=None, **options):
        super().__init__(programs, None, within)
        slow = {"lease": 3} if programs.slow > 1 else {}
        self.keys = Keys(programs) if "//*" in listen else None
        if self.keys:
            options["key"], self.key = self.keys.cluster, self.keys.client
        self.key = self.key or options.get("key")
        words = [programs.cadre, "serve", model, "--listen", listen, *options_of({"threads": 1, **slow, **options})]
        mpi = programs.mpi_env() if options.get("fabric", "").startswith("mpi") else {}
        self.process = Process([*within, *job, *words], env={**mpi, **(env or {})})

    def banner(self, key):
        """A line of the banner, without its first word; None before it is there."""
        for line in self.process.out().splitlines(keepends=True):
            if line.endswith("\n") and line.split()[:1] == [key]:
                return line.split(maxsplit=1)[1].strip()
        return None

    def serving(self, seconds=PATIENCE):
        def ready():
            check(self.process.running(), f"serve ended with {self.process.popen.poll()}: {self.process.err().strip()[-600:]}")
            return self.banner("clients")

        self.endpoint = until(ready, "the banner", seconds * self.programs.slow)
        self.cadre("status", "-q", "--wait", "10").good("status --wait")
        return self

    def stop(self, number=signal.SIGTERM, seconds=PATIENCE):
        """Exit status and output of serve after a signal; nothing may be left of it."""
        self.process.send(number)
        result = self.process.wait(seconds)
        self.process.gone("after serve ended")
        return result

    def __enter__(self):
        try:
            return self.serving()
        except BaseException:
            self.process.close()
            raise

    def __exit__(self, kind, value, trace):
        if isinstance(value, Failed):
            value.serve = self.process.out()[-1500:] + self.process.err()[-3000:]
        self.process.close()


@contextlib.contextmanager
def by_hand(programs, model, *words):
    """A coordinator alone; gives the process and its endpoints (listen, control)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "endpoints"
        doors = ["--listen", "tcp://127.0.0.1:*", "--control", "tcp://127.0.0.1:*", "--endpoint-file", file]
        with Process([programs.coordinator, model, *doors, *words]) as c:

            def ready():
                check(c.running(), f"cadre-coordinator ended: {c.err()!r}")
                return file.exists() and file.read_text().endswith("\n")

            until(ready, "the endpoint file", PATIENCE)
            words = file.read_text().split()
            yield c, words[1], words[3]


def mpirun(n):
    """The command line up to a program, for n processes on this machine."""
    words = f"mpirun -np {n} --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 --mca pml ob1 --mca btl vader,self"
    words += " --mca btl_vader_single_copy_mechanism none" + (" --allow-run-as-root" if os.geteuid() == 0 else "")
    return words.split()
