"""What does a network cost? `pybox run --network pybox` and `podman run --network bridge`, interleaved in one run; the wiring alone; fifty.

    network.py --prefix DIR [--rounds N] [--write]

DIR holds an installed wheel, as for bench.py. All of it happens in network, mount and PID namespaces of its own, so neither's
bridge or rules touch the machine; there is nothing behind them. As in bench.py a ratio is the median over the rounds of the ratio
within one round; only ratios mean something on another machine. ``--write``: into NETWORK.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import peers

HERE = Path(__file__).resolve().parent
MANY = 50
OURS, THEIRS, WRAPPER = "pybox run --network pybox", "podman run --network bridge", "podman's wrapper alone"
BAR_WIRING, BAR_PODMAN = 20.0, 0.5  # milliseconds beyond a run without a network; of podman's time
KINDS = {
    "without a network": {},
    "on the network pybox": {"network": "pybox"},
    "with a published port": {"publish": ["8080:80"]},
    "with an allow-list": {"allow_net": ["192.0.2.1:443"]},
}
IN_PROCESS = """
import json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
import pybox

def once(**network):
    begin = time.perf_counter()
    assert pybox.run("busybox", ["true"], **network).ok
    return (time.perf_counter() - begin) * 1000

kinds, rounds, many = json.loads(sys.argv[1])
times = [[once(**kind) for kind in kinds] for _ in range(rounds + 3)][3:]
begin = time.perf_counter()
with ThreadPoolExecutor(many) as pool:
    started = list(pool.map(lambda _: pybox.popen("busybox", ["sleep", "1000"], network="pybox"), range(many)))
took = time.perf_counter() - begin
held = os.environ["PYBOX_STATE"] + "/net/pybox"
addresses = len({os.readlink(held + "/" + name).split()[2] for name in os.listdir(held)})
for one in started:
    one.kill()
for one in started:
    one.wait()
print(json.dumps([times, took * 1000, addresses]))
"""


def enter() -> None:
    """Start again in namespaces of our own."""
    if "BENCH_INSIDE" not in os.environ:
        os.environ["BENCH_INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", sys.executable, *sys.argv])
    for words in ("mount -t tmpfs run /run", "ip link set lo up"):
        subprocess.run(words.split(), check=True)


def contenders(program: str, podman: list[str]) -> dict[str, list[str]]:
    """Return the commands that are compared."""
    job = ("--cgroups", "disabled", "localhost/busybox", "/bin/true")
    # crun refuses a hybrid cgroup hierarchy, so each podman gets a pure one, and what that costs is measured and taken off
    pure = 'mount -t sysfs sysfs /sys && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"'
    wrap = ["unshare", "--mount", "sh", "-c", pure, "sh"]
    return {
        OURS: [program, "run", "--rm", "--network", "pybox", "busybox", "true"],
        "pybox run": [program, "run", "--rm", "busybox", "true"],
        THEIRS: [*wrap, *podman, "run", "--rm", "--network", "bridge", *job],
        "podman run --network none": [*wrap, *podman, "run", "--rm", "--network", "none", *job],
        WRAPPER: [*wrap, "true"],
    }


def measure(commands: dict[str, list[str]], rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of each command in each round."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    server = subprocess.Popen([sys.executable, HERE / "timer.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin and server.stdout
    for number in range(rounds + 1):
        for name, argv in commands.items():
            full = [shutil.which(argv[0]) or argv[0], *argv[1:]]
            server.stdin.write(json.dumps({"argv": full, "count": 1}) + "\n")
            server.stdin.flush()
            reply = json.loads(server.stdout.readline())
            if "error" in reply:
                sys.exit(f"{name}: {reply['error']}")
            if number:  # the first round makes bridges and warms caches
                times[name].append(reply["times"][0] / 1e6)
    server.stdin.close()
    server.wait()
    return times


def verdict(good: bool) -> str:
    """Return what is said behind a bar."""
    return "ok" if good else "**missed**"


def of_commands(times: dict[str, list[float]]) -> list[str]:
    """Return the table of the commands."""
    lines = ["| command | ms, median | quartiles |", "| --- | --- | --- |"]
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        lines.append(f"| {name} | {middle:.1f} | {low:.1f}-{high:.1f} |")
    rounds = zip(times[OURS], times[THEIRS], times[WRAPPER], strict=True)
    ratio = statistics.median(ours / (theirs - wrapper) for ours, theirs, wrapper in rounds)
    said = f"{ratio:.2f} x, {verdict(ratio <= BAR_PODMAN)}"
    return [*lines, "", f"- Bar: pybox at most {BAR_PODMAN} x podman, podman's wrapper taken off: {said}."]


def in_process(library: Path, rounds: int) -> list[str]:
    """Return the table of the runs in one Python process, and what fifty at once got."""
    env = {**os.environ, "PYTHONPATH": str(library)}
    words = ["/usr/bin/python3", "-c", IN_PROCESS, json.dumps([list(KINDS.values()), rounds, MANY])]
    done = subprocess.run(words, env=env, cwd="/", check=True, stdout=subprocess.PIPE, text=True)  # a checkout has a pybox, too
    times, took, addresses = json.loads(done.stdout)
    lines = ["| in one Python process, made and undone | ms, p50 | beyond a run without |", "| --- | --- | --- |"]
    worst = 0.0
    for number, name in enumerate(KINDS):
        beyond = statistics.median(one[number] - one[0] for one in times)
        worst = max(worst, beyond)
        lines.append(f"| {name} | {statistics.median(one[number] for one in times):.1f} | {beyond:.1f} |")
    lines += ["", f"- Bar: wiring at most {BAR_WIRING:.0f} ms: {worst:.1f} ms, {verdict(worst <= BAR_WIRING)}."]
    return [*lines, f"- {MANY} started at once: {took:.0f} ms, {addresses} addresses, {verdict(addresses == MANY)}."]


def main() -> None:
    """Measure, print, and write where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    enter()
    work = Path(tempfile.mkdtemp(prefix="bench-network-", dir="/run"))
    before = peers.cgroups()
    prefix = asked.prefix.resolve()
    try:
        peers.busybox_tree(work / "tree")
        os.environ.update(PYBOX_STORE=str(work / "store"), PYBOX_STATE=str(work / "state"))
        program = str(prefix / "bin/pybox")
        subprocess.run([program, "import", "busybox", work / "tree"], check=True, stdout=subprocess.DEVNULL)
        podman = peers.podman(shutil.which("podman") or "podman", work, work / "tree")
        load = os.getloadavg()[0]
        host = f"Linux {os.uname().release}, {os.cpu_count()} CPUs, {asked.rounds} rounds, load {load:.1f} at the beginning"
        commands = of_commands(measure(contenders(program, list(podman)), asked.rounds))
        text = "\n".join([host, "", *commands, "", *in_process(prefix / "lib/pybox", asked.rounds * 3)]) + "\n"
    finally:
        peers.clean(work, before)
    print(text, end="")
    if asked.write:
        head = "# What a network costs\n\nWritten by `make bench-network BENCH=--write`; explained in `docs/network.md`.\n\n"
        (HERE / "NETWORK.md").write_text(head + text)


main()
