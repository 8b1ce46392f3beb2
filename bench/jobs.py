"""How many jobs a second? run_many beside what people write: a ThreadPool of 8 that runs bwrap, or podman, through subprocess.

    jobs.py --prefix DIR [--rounds N] [--count N] [--growth N] [--write]

A job is /bin/true in the same busybox tree, its output captured. pybox gives each all namespaces, a memory and a pids limit;
bwrap has namespaces alone; podman has all. As in bench.py a figure is the median over the rounds of the ratio within one round.
``--growth``: so many jobs in one process, to see whether its memory and its fds grow.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import peers
from table import write

from bench import PYTHON, Failed, Server, enter_namespaces

POOL = 8  # threads of who starts commands
BARS = {"bwrap": 1.6, "podman": 20.0, "4 at once": 1.0}  # run_many must be so many times as fast


def serve(library: str) -> None:
    """Answer requests: {"argv": [...], "count": N} or {"parallel": N, "count": N} -> {"rate": jobs per second}, and "rss", "fds"."""
    sys.path.append(library)
    import pybox

    def commands(argv: list[str], count: int) -> None:
        def one(_: int) -> None:
            if subprocess.run(argv, capture_output=True).returncode:
                raise RuntimeError(f"{argv[0]} failed")

        with ThreadPoolExecutor(POOL) as pool:
            list(pool.map(one, range(count)))

    def ours(parallel: int | str, count: int) -> None:
        jobs = (pybox.Job("busybox", ["/bin/true"], memory="64M", pids=64) for _ in range(count))
        failed = [result for result in pybox.run_many(jobs, parallel=parallel) if not result.ok]  # type: ignore[arg-type]
        if failed:
            raise RuntimeError(str(failed[0]))

    for line in sys.stdin:
        request = json.loads(line)
        begin = time.monotonic()
        try:
            if "argv" in request:
                commands(request["argv"], request["count"])
            else:
                ours(request["parallel"], request["count"])
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
            continue
        rate = request["count"] / (time.monotonic() - begin)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        print(json.dumps({"rate": rate, "rss": pages * 4096, "fds": len(os.listdir("/proc/self/fd"))}), flush=True)


def measure(prefix: Path, work: Path, rounds: int, count: int) -> dict[str, list[float]]:
    """Return the rates of each contender by round. Raises Failed."""
    tree = work / "busybox"
    peers.busybox_tree(tree)
    known = {peer.name: peer for peer in peers.prepare(work, tree)}
    imported = subprocess.run([prefix / "bin/pybox", "import", "busybox", tree], capture_output=True, text=True)
    if imported.returncode:
        raise Failed(f"pybox import: {imported.stderr.strip()}")
    here = [PYTHON, str(Path(__file__).resolve()), "--serve", str(prefix / "lib/pybox")]
    mount = 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$0" "$@"'
    hybrid, pure = Server(*here), Server("unshare", "--mount", "--propagation", "private", "sh", "-c", mount, *here)
    requests: dict[str, tuple[Server, dict[str, object]]] = {
        name: (hybrid, {"parallel": parallel, "count": count})
        for name, parallel in (("run_many", "auto"), ("4 at once", 4), ("64 at once", 64))
    }
    for name, share in (("bwrap", 1.0), ("podman", 0.03)):
        peer = known.get(name)
        if peer is None or peer.absent:
            print(f"{name}: {peer.absent if peer else 'unknown'}", file=sys.stderr)
            continue
        requests[name.split()[0]] = pure if peer.pure_v2 else hybrid, {"argv": peer.argv, "count": max(POOL, int(count * share))}
    rates: dict[str, list[float]] = {name: [] for name in requests}
    names = list(requests)
    for server, request in requests.values():
        server.ask(**{**request, "count": POOL})  # warm up
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            server, request = requests[name]
            rates[name].append(float(str(server.ask(**request)["rate"])))
    return rates


def growth(prefix: Path, count: int) -> str:
    """Run many jobs in one process; return what it had after a tenth of them and at the end."""
    server = Server(PYTHON, str(Path(__file__).resolve()), "--serve", str(prefix / "lib/pybox"))
    first = server.ask(parallel="auto", count=count // 10)
    last = server.ask(parallel="auto", count=count - count // 10)
    rss = [int(str(reply["rss"])) / 1e6 for reply in (first, last)]
    return f"{count} jobs: {rss[0]:.1f} MB after a tenth, {rss[1]:.1f} MB at the end; {first['fds']} and {last['fds']} fds"


def table(rates: dict[str, list[float]]) -> list[str]:
    """Return the rows of a Markdown table."""
    lines = ["| run_many of /bin/true, limits, captured | jobs/s | ratio | must |", "| --- | --- | --- | --- |"]
    for name, taken in rates.items():
        base = "64 at once" if name == "4 at once" else "run_many"
        ratio = statistics.median(ours / theirs for ours, theirs in zip(rates[base], taken, strict=True))
        must = f"{BARS[name]} x" if name in BARS else "-"
        shown = f"{ratio:.2f} ({base})" if name != base else "1"
        lines.append(f"| {name} | {statistics.median(taken):.0f} | {shown} | {must} |")
    return lines


def main() -> int:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
        return 0
    parser = argparse.ArgumentParser(description="measure run_many against pools of commands")
    parser.add_argument("--prefix", type=Path, required=True, help="where `make install` put pybox")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--growth", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="also write bench/JOBS.md")
    options = parser.parse_args()
    enter_namespaces()
    prefix = options.prefix.resolve()
    with peers.workplace(prefix) as work:
        lines = table(measure(prefix, work, options.rounds, options.count))
        if options.growth:
            lines += ["", growth(prefix, options.growth)]
    print("\n".join(lines))
    if options.write:
        how = f"{options.rounds} rounds of {options.count} jobs, load {os.getloadavg()[0]:.1f}"
        write("jobs", "Jobs by the thousand", how, lines)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
