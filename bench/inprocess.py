"""Calls pybox.run in one process and times it: ``inprocess.py LIBRARY BYTES_TO_HOLD``, one JSON request a line.

    {"variant": "bare", "count": 20}            -> {"times": [ns, ...]}
    {"variant": "bare", "threads": 8, "each": 25}  -> {"rate": jobs per second}

The process may hold memory, to show whether launching costs more in a big one.
"""

from __future__ import annotations

import sys

sys.path.append(sys.argv[1])

import json
import threading
import time

import pybox

TRUE = ["/bin/true"]
VARIANTS: dict[str, dict[str, object]] = {
    "bare": {"init": False, "capture": False},
    "limits": {"init": False, "capture": True, "memory": "64M", "pids": 64},
    "init": {"init": True, "capture": True, "memory": "64M", "pids": 64},
}


def job(variant: str) -> int:
    """Run one job; return its nanoseconds. Raises RuntimeError when it did not end as it should."""
    options = VARIANTS[variant]
    begin = time.monotonic_ns()
    result = pybox.run("busybox", TRUE, **options)  # type: ignore[arg-type]
    taken = time.monotonic_ns() - begin
    if result.exit_code != 0:
        raise RuntimeError(f"exit status {result.exit_code}: {result}")
    return taken


def rate(variant: str, threads: int, each: int) -> float:
    """Launch from many threads at once; return jobs per second."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(each):
                job(variant)
        except BaseException as error:
            failed.append(error)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    begin = time.monotonic_ns()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    taken = time.monotonic_ns() - begin
    if failed:
        raise failed[0]
    return threads * each * 1e9 / taken


def answer(request: dict[str, object]) -> dict[str, object]:
    variant = str(request["variant"])
    try:
        if "threads" in request:
            return {"rate": rate(variant, int(str(request["threads"])), int(str(request["each"])))}
        return {"times": [job(variant) for _ in range(int(str(request["count"])))]}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


held = bytearray(int(sys.argv[2]))  # written to by its making, so every page of it is really there
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
