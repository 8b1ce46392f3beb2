"""Kill containers on networks, and the pyboxes that start them, at random moments; then look for what is left of them.

    .venv/bin/python tests/system/killing.py [COUNT] [SEED]      200 of them, as root, in a network namespace of its own

A test does the same with a few.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from harness import eventually, make_tree
from place import INTERNET, Place

WAYS = (
    ("--network", "pybox"),
    ("-p", "80"),
    ("-p", "7000-7003:7000-7003/udp"),
    ("-P", "--userns", "--network", "pybox"),
    ("--allow-net", f"{INTERNET}:80"),
    ("--network", "pybox", "--network", "second", "-p", "81"),
    ("-d", "-p", "80"),
)
AT_ONCE = 4


def process_of(state: Path) -> int:
    """Return the process 1 of some container that runs, 0 when none does."""
    for journal in state.glob("*/journal"):
        try:
            pid = journal.read_text().partition("\n")[2].strip()
        except OSError:
            continue
        if pid.isdigit() and os.path.exists(f"/proc/{pid}/ns/net"):
            return int(pid)
    return 0


def kill(there: Place, state: Path, count: int, seed: int, latest: float = 0.4) -> Counter[str]:
    """Start ``count`` containers, a few at once, and kill each within ``latest`` seconds; returns how many were hit where."""
    chance = random.Random(seed)
    hit: Counter[str] = Counter()
    begun: list[tuple[float, subprocess.Popen[bytes]]] = []
    for number in range(count):
        way = WAYS[number % len(WAYS)]
        if "7000-7003:7000-7003/udp" in way:  # of these only one can be at a time
            way = ("-p", f"{7000 + number * 4}-{7003 + number * 4}:7000-7003/udp")
        begun.append(
            (time.monotonic() + chance.uniform(0.03, latest), there.start("run", "--rm", *way, "busybox", "sleep", "1000"))
        )
        while len(begun) >= AT_ONCE or (begun and number == count - 1):
            due, process = begun.pop(0)
            time.sleep(max(0.0, due - time.monotonic()))
            pid = process_of(state) if chance.random() < 0.5 else 0
            if pid:
                hit["process 1 of a container"] += 1
                _kill(pid)
            else:
                hit["a pybox" if process.poll() is None else "nobody: it had ended"] += 1
            process.kill()
            process.communicate()
    eventually(lambda: not _kill_one(there, state, hit), 20)  # those that ran in the background, or are just beginning to
    return hit


def _kill_one(there: Place, state: Path, hit: Counter[str]) -> bool:
    """Kill a container if one runs, and bury the dead; returns whether there is any, running or about to."""
    if pid := process_of(state):
        hit["process 1 of a container"] += 1
        _kill(pid)
    there.said("gc")
    return bool(pid or there.said("ps", "-aq"))


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def left(there: Place, state: Path) -> list[str]:
    """Return what is left of containers: records, addresses, ports, elements and chains of the rules, interfaces."""
    found = [f"record {path.name}" for path in state.iterdir() if len(path.name) == 12]
    found += [f"address {path}" for path in state.glob("net/*/*")] + [f"port {path.name}" for path in state.glob("ports/*")]
    found += [f"rule {rule}" for rule in there.of_containers()]
    return found + [
        f"interface {link}" for link in there.links() if link.startswith("pb") and link[2:14].isalnum() and len(link) == 15
    ]


def namespaces() -> set[str]:
    """Return all network namespaces that a process is in."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(os.readlink(path))
        except OSError:
            continue
    return found


def main() -> None:
    """Kill, tidy up, and say what is left."""
    if "KILLING_INSIDE" not in os.environ:  # in a PID namespace of its own, so no namespace that is seen is somebody else's
        os.environ["KILLING_INSIDE"] = "1"
        shell = ("sh", "-c", '"$@"; exit $?', "sh")  # which reaps orphans as process 1
        os.execvp("unshare", ["unshare", "--pid", "--fork", "--mount-proc", *shell, sys.executable, *sys.argv])
    count = int(sys.argv[1]) if sys.argv[1:] else 200
    seed = int(sys.argv[2]) if sys.argv[2:] else random.randrange(1 << 30)
    with tempfile.TemporaryDirectory(prefix="pybox-killing.", dir="/dev/shm") as folder:
        work = Path(folder)
        os.environ.update(PYBOX_STORE=f"{work}/store", PYBOX_STATE=f"{work}/state")
        place = Place(work)
        try:
            place.said("import", "busybox", str(make_tree(work / "tree", work)))
            place.said("network", "create", "second")
            for network in ("pybox", "second"):
                place.said("run", "--rm", "--network", network, "busybox", "true")
            before = namespaces(), place.links()
            began = time.monotonic()
            hit = kill(place, work / "state", count, seed, latest=1.0)
            seconds = time.monotonic() - began
            eventually(lambda: not left(place, work / "state") and namespaces() <= before[0] and place.links() <= before[1], 10)
            found = left(place, work / "state")
            found += [f"namespace {name}" for name in namespaces() - before[0]] + [
                f"interface {n}" for n in place.links() - before[1]
            ]
        finally:
            place.close()
    print(f"{count} containers in {seconds:.0f} s, seed {seed}; killed: {', '.join(f'{n} {what}' for what, n in hit.items())}")
    print(f"left after `pybox gc`: {len(found)}")
    print("\n".join(found), end="\n" if found else "")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
