"""What does a network cost? `pybox run --network pybox` and `podman run --network bridge`, interleaved in one run; and the wiring alone.

    bench/network.py --prefix DIR [--rounds N]

DIR holds an installed wheel, as for bench.py. All of it happens in network, mount and pid namespaces of its own, so neither's
bridge or rules touch the machine; there is nothing behind them. Prints a table in markdown; only the ratios mean something.
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
IN_PROCESS = """
import json, statistics, sys, time
import pybox
def median(count, **network):
    times = []
    for _ in range(count + 3):
        begin = time.perf_counter()
        assert pybox.run("busybox", ["true"], **network).ok
        times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times[3:])
print(json.dumps([median(60), median(60, network="pybox"), median(60, publish=["8080:80"]), median(60, allow_net=["192.0.2.1:443"])]))
"""


def enter() -> None:
    """Start again in namespaces of our own."""
    if "BENCH_INSIDE" not in os.environ:
        os.environ["BENCH_INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", sys.executable, *sys.argv])
    for words in ("mount -t tmpfs run /run", "ip link set lo up"):
        subprocess.run(words.split(), check=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    enter()
    work = Path(tempfile.mkdtemp(prefix="bench-network-", dir="/run"))
    before = peers.cgroups()
    try:
        peers.busybox_tree(work / "tree")
        os.environ.update(PYBOX_STORE=str(work / "store"), PYBOX_STATE=str(work / "state"))
        program = str(asked.prefix.resolve() / "bin/pybox")
        subprocess.run([program, "import", "busybox", work / "tree"], check=True, stdout=subprocess.DEVNULL)
        podman = peers.podman(shutil.which("podman") or "podman", work, work / "tree")
        job = ("--cgroups", "disabled", "localhost/busybox", "/bin/true")
        # crun refuses a hybrid cgroup hierarchy, so each podman gets a pure one; pybox pays the same wrapper
        wrap = (
            "unshare",
            "--mount",
            "sh",
            "-c",
            'mount -t sysfs sysfs /sys && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"',
            "sh",
        )
        contenders = {
            "pybox run --network pybox": (program, "run", "--rm", "--network", "pybox", "busybox", "true"),
            "pybox run (no network)": (program, "run", "--rm", "busybox", "true"),
            "podman run --network bridge": (*wrap, *podman, "run", "--rm", "--network", "bridge", *job),
            "podman run --network none": (*wrap, *podman, "run", "--rm", "--network", "none", *job),
            "the wrapper of podman alone": (*wrap, "true"),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        server = subprocess.Popen([sys.executable, HERE / "timer.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert server.stdin and server.stdout
        for number in range(asked.rounds + 1):
            for name, argv in contenders.items():
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
        print("| command | ms, median |\n| --- | --- |")
        for name, values in times.items():
            print(f"| {name} | {statistics.median(values):.1f} |")
        ours, theirs = times["pybox run --network pybox"], times["podman run --network bridge"]
        wrapper = statistics.median(times["the wrapper of podman alone"])
        ratio = statistics.median(a / (b - wrapper) for a, b in zip(ours, theirs, strict=True))
        print(f"\npybox / podman, within a round, podman's wrapper taken off: **{ratio:.2f}**")
        library = next((asked.prefix.resolve() / "lib").glob("pybox"))
        env = {**os.environ, "PYTHONPATH": str(library)}
        done = subprocess.run(["/usr/bin/python3", "-c", IN_PROCESS], env=env, check=True, capture_output=True, text=True)
        none, bridge, port, fence = json.loads(done.stdout)
        print("\n| in one Python process, made and undone | ms, p50, beyond a run without network |\n| --- | --- |")
        for name, value in (("network pybox", bridge), ("with a published port", port), ("with an allow-list", fence)):
            print(f"| {name} | {value - none:.1f} |")
    finally:
        peers.clean(work, before)


main()
