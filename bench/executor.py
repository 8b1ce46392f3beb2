"""Calls per second: pybox.Executor against concurrent.futures.ProcessPoolExecutor, the same functions, the same number of workers.

    python bench/executor.py [--image host] [--workers 2] [--calls 3000] [--rounds 9]

Interleaved: each round times both, one after the other, and gives one ratio; the median of the ratios counts, for the machine's
mood is the same within a round. Both pools are warm. With --image host both run on the very same Python.
"""

from __future__ import annotations

import argparse
import operator
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import pybox

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", default="host")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with ProcessPoolExecutor(args.workers) as plain, pybox.Executor(args.image, args.workers, memory="512M", pids=64) as boxed:
        print("| calls | ProcessPoolExecutor | pybox.Executor | ratio, median (least, most) |\n| --- | --- | --- | --- |")
        for kind in KINDS:
            for pool in (plain, boxed):
                rate(kind, pool, args.calls // 4)
            pairs = []
            for turn in range(args.rounds):
                order = (plain, boxed) if turn % 2 else (boxed, plain)
                found = {pool: rate(kind, pool, args.calls) for pool in order}
                pairs.append((found[plain], found[boxed]))
            ratios = sorted(ours / theirs for theirs, ours in pairs)
            theirs, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
            spread = f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f}, {ratios[-1]:.2f})"
            print(f"| {kind} | {theirs:.0f}/s | {ours:.0f}/s | {spread} |", flush=True)
            if kind == "no-op calls" and statistics.median(ratios) < BAR:
                sys.exit(f"below the bar of {BAR}")


if __name__ == "__main__":
    main()
