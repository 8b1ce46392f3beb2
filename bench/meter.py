"""What processes cost while they live: memory by process and by control group, the wait for a first answer.

PSS (proportional set size) counts a page that n processes share as 1/n in each, so it can be summed. It knows nothing of what
the kernel holds for a process (page tables, stacks, sockets, mounts): that is read from a memory control group.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench import Failed

_LIBC = ctypes.CDLL(None, use_errno=True)
_KCMP = {"x86_64": 312, "aarch64": 272}
_KCMP_VM = 1
_ROOT = Path("/sys/fs/cgroup/memory")


class Group:
    """A memory control group (v1) below our own: everything of one kind is started in it, and what it makes lies below."""

    def __init__(self, name: str) -> None:
        with open("/proc/self/cgroup") as lines:
            own = next((line.strip().split(":", 2)[2] for line in lines if line.split(":")[1] == "memory"), None)
        if own is None:
            raise Failed("no v1 memory controller to count kernel memory with")
        self.outside = _ROOT / own.lstrip("/")
        self.path = self.outside / f"bench-{name}"
        self.path.mkdir(exist_ok=True)  # a killed benchmark leaves it, empty

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be in the group for a while: what is started meanwhile is born there."""
        (self.path / "cgroup.procs").write_text("0")
        try:
            yield
        finally:
            (self.outside / "cgroup.procs").write_text("0")

    def processes(self) -> list[int]:
        """Return the pids of the group and all groups below."""
        found = []
        for where, _, _ in os.walk(self.path):
            with suppress(OSError):
                found += [int(line) for line in Path(where, "cgroup.procs").read_text().split()]
        return found

    def usage(self) -> tuple[int, int]:
        """Return the bytes that processes hold (anonymous and shared memory) and those the kernel holds for them."""
        stat = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
        kernel = int((self.path / "memory.kmem.usage_in_bytes").read_text())
        return int(stat["total_rss"]) + int(stat.get("total_shmem", 0)), kernel

    def below(self) -> int:
        """Return how many groups are left below."""
        return sum(len(names) for _, names, _ in os.walk(self.path))

    def close(self) -> None:
        """Remove the group and what is left below it; the dead leave it when they are reaped, which may be a moment from now."""
        for _ in range(50):
            if not self.processes():
                break
            time.sleep(0.1)
        for where, _, _ in os.walk(self.path, topdown=False):
            with suppress(OSError):
                os.rmdir(where)


@contextmanager
def mounts_of(namespace: int) -> Iterator[None]:
    """Be in another mount namespace for a while; -1: stay."""
    if namespace < 0:
        yield
        return
    here = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(namespace)
        yield
    finally:
        _setns(here)
        os.close(here)


def _setns(fd: int) -> None:
    if _LIBC.setns(fd, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def pss(pids: list[int]) -> dict[str, list[int]]:
    """Return the PSS in bytes by the name of the program, a process each. Processes that share their memory count as one."""
    found: dict[str, list[int]] = {}
    seen: list[tuple[int, str]] = []
    for pid in pids:
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        sizes = [int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")]
        if not sizes or any(other == name and _same_memory(pid, known) for known, other in seen):
            continue
        seen.append((pid, name))
        found.setdefault(name, []).append(sizes[0])
    return found


def largest_mapping(pid: int, size: int) -> int:
    """Return the resident bytes of the mapping of just this size: a virtual machine's RAM; 0 when there is none."""
    matches = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        word = line.split()
        if "-" in word[0] and not word[0].endswith(":"):
            begin, end = (int(part, 16) for part in word[0].split("-"))
            matches = end - begin == size
        elif matches and word[0] == "Rss:":
            return int(word[1]) * 1024
    return 0


def _same_memory(one: int, other: int) -> bool:
    return bool(_LIBC.syscall(_KCMP[platform.machine()], one, other, _KCMP_VM, 0, 0) == 0)


def await_answer(address: tuple[str, int], begin: int, seconds: float, server: subprocess.Popen[bytes] | None = None) -> float:
    """Ask for the page until it comes; return the milliseconds since ``begin`` (monotonic ns).

    Raises Failed when the time is up, or the ``server`` has ended.
    """
    limit = begin + int(seconds * 1e9)
    while time.monotonic_ns() < limit:
        if server and server.poll() is not None:
            raise Failed(f"ended with status {server.returncode}")
        with suppress(OSError), socket.create_connection(address, timeout=0.25) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            said = b""
            while piece := connection.recv(4096):
                said += piece
            if b" 200 " in said and b"hello" in said:
                return (time.monotonic_ns() - begin) / 1e6
        time.sleep(0.001)
    raise Failed(f"no answer from {address[0]}:{address[1]} within {seconds:g} seconds")


def mounts_below(path: str) -> int:
    """Return how many mounts of this namespace lie below a directory."""
    with open("/proc/self/mounts") as mounts:
        return sum(line.split()[1].startswith(f"{path}/") for line in mounts)
