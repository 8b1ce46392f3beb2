"""Starts commands and times them, one JSON request a line.

    {"argv": [...], "count": N} -> {"times": [ns, ...]} or {"error": "..."}

A process of its own, so that a peer that needs another view of the machine (crun: a pure cgroup v2) gets it without a wrapper in
the measured path. posix_spawn keeps the price of starting a process the same for every command. ``{n}`` in an argument is
replaced by a number that no other start had.
"""

from __future__ import annotations

import json
import os
import sys
import time


def start(argv: list[str], log: int) -> tuple[int, int]:
    """Run one command; return the nanoseconds until it was reaped and its exit status."""
    null = os.open("/dev/null", os.O_RDWR)
    files = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    begin = time.monotonic_ns()
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=files)
    _, status = os.waitpid(pid, 0)
    taken = time.monotonic_ns() - begin
    os.close(null)
    return taken, os.waitstatus_to_exitcode(status)


def main() -> None:
    serial = 0
    log = os.memfd_create("stderr")
    for line in sys.stdin:
        request = json.loads(line)
        times: list[int] = []
        reply: dict[str, object] = {"times": times}
        for _ in range(request["count"]):
            serial += 1
            os.ftruncate(log, 0)
            os.lseek(log, 0, os.SEEK_SET)
            taken, code = start([word.replace("{n}", f"{os.getpid()}-{serial}") for word in request["argv"]], log)
            if code != 0:
                said = os.pread(log, 4000, 0).decode(errors="replace").strip().splitlines()
                reply = {"error": f"exit status {code}: {said[-1] if said else 'nothing on stderr'}"}
                break
            times.append(taken)
        print(json.dumps(reply), flush=True)


main()
