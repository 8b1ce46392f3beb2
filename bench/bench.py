"""How fast does pybox launch? Every contender in one interleaved run, compared as ratios.

    bench.py --prefix DIR [--rounds N] [--write]

DIR holds an installed wheel (bin/pybox, lib/pybox) and the compiled bench/floor.c (floor); without pybox there the peers are
measured alone. Absolute times move with the machine's mood, so a row is the median over the rounds of the ratio within one round,
and every round visits all contenders, each time from another starting point.

All of it happens in a mount and a pid namespace of its own: no mount, no process and nothing under /run outlives it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import peers
import table

HERE = Path(__file__).resolve().parent
PYTHON = "/usr/bin/python3"
HELD = 2 << 30  # bytes in the big process
BATCH = 20  # launches of a fast contender per round
STARTS = 4  # starts of a command per round
THREADS, EACH = 8, 25

Sample = Callable[[], "list[float]"]


class Failed(Exception):
    """A contender could not do its job; the message says why."""


class Server:
    """A process that answers one JSON line with another."""

    def __init__(self, *argv: str) -> None:
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request: object) -> dict[str, object]:
        """Send a request and return the reply. Raises Failed with what the server says went wrong."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed("its process has ended") from None
        line = self.process.stdout.readline()
        if not line:
            raise Failed("its process has ended")
        reply: dict[str, object] = json.loads(line)
        if "error" in reply:
            raise Failed(str(reply["error"]))
        return reply

    def times(self, **request: object) -> list[float]:
        """Return the milliseconds of each launch."""
        times = self.ask(**request)["times"]
        assert isinstance(times, list)
        return [nanoseconds / 1e6 for nanoseconds in times]


class Floor:
    """bench/floor.c: what the kernel itself charges."""

    def __init__(self, program: Path, tree: Path, work: Path) -> None:
        self.argv = [str(program), str(tree), str(work / "floor")]
        (work / "floor").mkdir()

    def times(self) -> list[float]:
        """Return the milliseconds of each of one batch of jobs."""
        done = subprocess.run([*self.argv, str(BATCH)], capture_output=True, text=True)
        if done.returncode:
            raise Failed(done.stderr.strip())
        return [int(line) / 1e6 for line in done.stdout.split()]

    def rate(self) -> list[float]:
        """Return the jobs per second of two copies at once."""
        count = THREADS * EACH // 2
        begin = time.monotonic()
        both = [subprocess.Popen([*self.argv, str(count)], stdout=subprocess.DEVNULL) for _ in range(2)]
        ended = [process.wait() for process in both]
        if any(ended):
            raise Failed("one of two copies failed")
        return [2 * count / (time.monotonic() - begin)]


def pybox_contenders(prefix: Path, tree: Path, timer: Server) -> dict[str, Sample]:
    """Import the image with the installed command; return pybox's contenders. Raises Failed."""
    command, library = str(prefix / "bin/pybox"), str(prefix / "lib/pybox")
    if not os.path.exists(command):
        raise Failed("not installed")
    imported = subprocess.run([command, "import", "busybox", tree], capture_output=True, text=True)
    if imported.returncode:
        raise Failed(f"pybox import: {imported.stderr.strip() or imported.returncode}")

    def many(server: Server) -> list[float]:
        rate = server.ask(variant="bare", threads=THREADS, each=EACH)["rate"]
        assert isinstance(rate, float)
        return [rate]

    empty, big = (Server(PYTHON, "-I", "-S", str(HERE / "inprocess.py"), library, str(size)) for size in (0, HELD))
    found: dict[str, Sample] = {name: partial(empty.times, variant=name, count=BATCH) for name in ("bare", "limits", "init")}
    found["held"] = lambda: big.times(variant="bare", count=BATCH)
    found["threads"] = lambda: many(empty)
    found["command"] = lambda: timer.times(argv=[command, "run", "--rm", "busybox", "true"], count=STARTS)
    return found


def contenders(prefix: Path, work: Path) -> tuple[dict[str, Sample], dict[str, str]]:
    """Prepare everything; return how to take a sample of each contender, and why the absent ones are."""
    tree = work / "busybox"
    peers.busybox_tree(tree)
    known, absent = peers.prepare(work, tree), {}
    timer = Server(PYTHON, str(HERE / "timer.py"))
    mount = 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$0" "$1"'
    pure = Server("unshare", "--mount", "--propagation", "private", "sh", "-c", mount, PYTHON, str(HERE / "timer.py"))
    floor = Floor(prefix / "floor", tree, work)
    found: dict[str, Sample] = {"floor": floor.times, "floors": floor.rate}
    found["python"] = lambda: timer.times(argv=[PYTHON, "-I", "-S", "-c", "pass"], count=STARTS)
    for peer in known:
        if peer.absent:
            absent[peer.name] = peer.absent
            continue
        server, count = pure if peer.pure_v2 else timer, max(1, round(STARTS * peer.share))
        found[peer.name] = partial(server.times, argv=peer.argv, count=count)
    try:
        found.update(pybox_contenders(prefix, tree, timer))
    except Failed as why:
        absent.update(dict.fromkeys(table.OURS, str(why)))
    for name, sample in list(found.items()):  # warm up, and see who can't
        try:
            sample()
        except Failed as why:
            absent[name] = f"failed: {why}"
            del found[name]
    return found, absent


def measure(found: dict[str, Sample], absent: dict[str, str], rounds: int) -> dict[str, list[list[float]]]:
    """Visit all contenders in every round; return each one's samples by round. A contender that fails moves to ``absent``."""
    samples: dict[str, list[list[float]]] = {name: [] for name in found}
    names = list(found)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            if name in absent:
                continue
            try:
                samples[name].append(found[name]())
            except Failed as why:
                absent[name] = f"failed in round {number + 1}: {why}"
        if sys.stderr.isatty():
            print(f"\rround {number + 1} of {rounds}", end="\n" if number + 1 == rounds else "", file=sys.stderr, flush=True)
    return {name: taken for name, taken in samples.items() if name not in absent}


def enter_namespaces(*more: str) -> None:
    """Start this program again as process 1 of its own pid namespace, in a private mount namespace; returns in there.

    ``more``: options of unshare(1) for further namespaces.
    """
    if os.environ.get("PYBOX_BENCH") == "inside":
        for path in ("/run", "/dev/shm"):
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "bench", path], check=True)
        return
    environment = {"PATH": peers.SEARCH, "HOME": os.environ.get("HOME", "/root"), "LANG": "C.UTF-8", "PYBOX_BENCH": "inside"}
    unshare = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", *more]
    os.execvpe("unshare", [*unshare, sys.executable, *sys.argv], environment)


def main() -> int:
    parser = argparse.ArgumentParser(description="measure pybox against the kernel's floor and its peers")
    parser.add_argument("--prefix", type=Path, required=True, help="where `make install` put pybox and floor.c was compiled to")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--write", action="store_true", help="also write bench/RESULTS.md")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("must be root: the peers are measured as root")
    enter_namespaces()
    prefix = options.prefix.resolve()
    with peers.workplace(prefix) as work:
        found, absent = contenders(prefix, work)
        load = os.getloadavg()[0]
        samples = measure(found, absent, options.rounds)
    host = f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, {options.rounds} rounds, load {load:.1f}"
    report = table.Report(host, samples, absent)
    print(report.text())
    if options.write:
        (HERE / "RESULTS.md").write_text(report.markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
