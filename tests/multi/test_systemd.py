#!/usr/bin/env python3
"""test_systemd.py - the units in deploy/systemd: systemd takes them, and what they start works together."""

import re
import shutil
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path

from cases import case, main, skip
from cluster import Front, Keys, Process, check, run, same, until

UNITS = Path(__file__).resolve().parents[2] / "deploy/systemd"


def installed(p, text):
    """With the programs of this build."""
    for name, path in (("cadre-coordinator", p.coordinator), ("cadre-worker", p.worker), ("cadre", p.cadre)):
        text = text.replace(f"/usr/local/bin/{name} ", f"{path} ")
    return text


@case
def systemd_takes_them(p):
    """Every line: it warns of those that it does not know."""
    if not shutil.which("systemd-analyze"):
        skip("no systemd-analyze")
    with tempfile.TemporaryDirectory() as folder:
        for unit in sorted(UNITS.glob("*.service")):
            Path(folder, unit.name).write_text(installed(p, unit.read_text()))
        for name in ("cadre.service", "cadre-coordinator.service", "cadre-worker@3.service"):
            source = "cadre-worker@.service" if "@" in name else name
            if source != name:
                shutil.copy(Path(folder, source), Path(folder, name))
            r = run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", Path(folder, name)])
            check(r.status == 0, f"{name}: {r.err!r}")
            about = [line for line in (r.out + r.err).splitlines() if "cadre" in line]
            same(about, [], f"what systemd says about {name}")


def command(p, name, instance, variables):
    """The words that systemd would start."""
    line = re.search(r"^ExecStart=(.*)$", installed(p, (UNITS / name).read_text()), re.M)[1].replace("%i", instance)
    return re.sub(r"\$\{?(\w+)\}?", lambda m: variables[m[1]], line).split()


@case
def a_cluster_of_units(p):
    """A coordinator and two workers with a key, one of which is killed and started again, as its unit says."""
    keys = Keys(p)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        conf, told = Path(folder, "coordinator.conf"), Path(folder, "endpoints")
        conf.write_text(f"workers = 2\nfabric = shm\nlisten = tcp://127.0.0.1:*\ncontrol = tcp://127.0.0.1:*\nendpoint-file = {told}\n"
                        f"key = {keys.cluster}\n")
        given = {"CADRE_MODEL": p.golden("mixtral"), "STATE_DIRECTORY": folder, "CADRE_WORKERS": "2", "CADRE_FABRIC": "shm"}
        words = command(p, "cadre-coordinator.service", "", given)
        words[words.index("/etc/cadre/coordinator.conf")] = str(conf)
        coordinator = stack.enter_context(Process(words))
        until(told.exists, "the coordinator's endpoints")
        _, listen, _, control = told.read_text().split()
        given |= {"CADRE_CONTROL": control, "CADRE_THREADS": "1", "CADRE_OPTIONS": f"--key {keys.cluster}"}
        workers = [stack.enter_context(Process(command(p, "cadre-worker@.service", i, given))) for i in ("0", "1")]
        front = Front(p, listen, key=keys.client)
        front.cadre("status", "-q", "--wait", "30").good("status --wait")
        wanted = front.generate(prompt="once", max_tokens=8)
        workers[1].send(signal.SIGKILL)
        workers[1].wait()
        workers[1] = stack.enter_context(Process(command(p, "cadre-worker@.service", "1", given)))
        front.until_status(lambda s: s["workers"][1]["pid"] == workers[1].pid and s["state"] == "serving", "the worker's successor")
        same(front.generate(prompt="once", max_tokens=8), wanted, "after a worker was started again")
        coordinator.send(signal.SIGTERM)
        for process in (coordinator, *workers):
            same(process.wait().status, 0, f"{process.argv[0]} {process.err()[-500:]}")


if __name__ == "__main__":
    main()
