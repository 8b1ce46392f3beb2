"""Calls per second: pybox.Executor against concurrent.futures.ProcessPoolExecutor, the same functions, the same number of workers.

    executor.py --prefix DIR [--workers 2] [--calls 3000] [--rounds 9] [--write]

Interleaved: each round times both, one after the other, and gives one ratio; the median of the ratios counts, for the machine's
mood is the same within a round. Both pools are warm. Both run on the very same Python: the image is `host`.
"""

from __future__ import annotations

import argparse
import operator
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

from table import write

from bench import enter_namespaces

BAR = 0.5


def noop() -> None:
    """Do nothing."""


def many(pool: Executor, calls: int) -> None:
    """Submit all, then wait for all."""
    for future in [pool.submit(noop) for _ in range(calls)]:
        future.result()


def one_by_one(pool: Executor, calls: int) -> None:
    """Wait for each before the next: latency."""
    for _ in range(calls // 4):
        pool.submit(noop).result()


def chunked(pool: Executor, calls: int) -> None:
    """The same by map, 50 to a message."""
    for _ in pool.map(operator.neg, range(calls * 10), chunksize=50):
        pass


def megabyte(pool: Executor, calls: int) -> None:
    """A megabyte there and back."""
    data = bytes(1 << 20)
    for future in [pool.submit(bytes, data) for _ in range(calls // 100)]:
        future.result()


KINDS: dict[str, tuple[Callable[[Executor, int], None], float]] = {
    "no-op calls": (many, 1),
    "one by one": (one_by_one, 1 / 4),
    "map, chunksize=50": (chunked, 10),
    "1 MB there and back": (megabyte, 1 / 100),
}


def rate(kind: str, pool: Executor, calls: int) -> float:
    """Return calls per second."""
    work, share = KINDS[kind]
    begin = time.perf_counter()
    work(pool, calls)
    return calls * share / (time.perf_counter() - begin)


def compare(plain: Executor, boxed: Executor, calls: int, rounds: int) -> list[str]:
    """Return the lines of the table. Raises SystemExit when the bar is missed."""
    lines = ["| calls | ProcessPoolExecutor | pybox.Executor | ratio, median (least, most) |", "| --- | --- | --- | --- |"]
    for kind in KINDS:
        for pool in (plain, boxed):
            rate(kind, pool, calls // 4)
        pairs = []
        for turn in range(rounds):
            order = (plain, boxed) if turn % 2 else (boxed, plain)
            found = {pool: rate(kind, pool, calls) for pool in order}
            pairs.append((found[plain], found[boxed]))
        ratios = sorted(ours / theirs for theirs, ours in pairs)
        theirs, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        spread = f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f}, {ratios[-1]:.2f})"
        lines.append(f"| {kind} | {theirs:.0f}/s | {ours:.0f}/s | {spread} |")
        print(lines[-1], flush=True)
        if kind == "no-op calls" and statistics.median(ratios) < BAR:
            sys.exit(f"below the bar of {BAR}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prefix", type=Path, required=True, help="where pybox is installed")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", action="store_true", help="also write bench/EXECUTOR.md")
    args = parser.parse_args()
    enter_namespaces()
    sys.path.append(str(args.prefix.resolve() / "lib/pybox"))
    import pybox

    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        os.environ.update(PYBOX_STATE=f"{place}/state", PYBOX_STORE=f"{place}/store")
        with ProcessPoolExecutor(args.workers) as plain, pybox.Executor("host", args.workers, memory="512M", pids=64) as boxed:
            lines = compare(plain, boxed, args.calls, args.rounds)
    if args.write:
        how = f"{args.workers} workers, {args.rounds} rounds of {args.calls} calls, load {os.getloadavg()[0]:.1f}; no-op calls: at least {BAR}"
        write("executor", "Calls per second of an Executor", how, lines)


if __name__ == "__main__":
    main()
