"""The budget: the box is given to the jobs, but never promised twice. What runs at once may promise at most what there is."""

from __future__ import annotations

import os

from pybox.host import read
from pybox.record import Record
from pybox.spec import Spec


class Budget(Record):
    """What jobs that run at once may promise together."""

    memory: int  # bytes
    cpus: float

    def never(self, need: Need) -> str:
        """Return why a job can never fit, "" when it can."""
        if need.memory > self.memory:
            return f"it wants {need.memory} bytes of memory, and there are {self.memory} to share"
        if need.cpus > self.cpus:
            return f"it wants {need.cpus:g} CPUs, and there are {self.cpus:g} to share"
        return ""

    def fits(self, held: Need, need: Need) -> bool:
        """Return whether a job can begin beside those that hold something."""
        return held.memory + need.memory <= self.memory and held.cpus + need.cpus <= self.cpus + 1e-9


class Need(Record):
    """What a job promises to stay within, or several together; a job without limits promises nothing."""

    memory: int = 0  # bytes
    cpus: float = 0.0

    def plus(self, other: Need) -> Need:
        """Return both together."""
        return Need(self.memory + other.memory, self.cpus + other.cpus)

    def minus(self, other: Need) -> Need:
        """Return this without the other."""
        return Need(self.memory - other.memory, max(0.0, self.cpus - other.cpus))


def need_of(spec: Spec) -> Need:
    """Return what a job promises."""
    return Need(spec.limits.memory or 0, spec.limits.cpus or 0.0)


def of_the_box() -> Budget:
    """Return what this machine, or the control group we are in, has to give: nine tenths of the memory, and the CPUs we may use."""
    available = [_kilobytes("MemAvailable")]
    for line in read("/proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if controllers == "" and number == "0":
            limit = read(f"/sys/fs/cgroup{path}/memory.max").strip()
            used = read(f"/sys/fs/cgroup{path}/memory.current").strip()
        elif "memory" in controllers.split(","):
            limit = read(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes").strip()
            used = read(f"/sys/fs/cgroup/memory{path}/memory.usage_in_bytes").strip()
        else:
            continue
        if limit.isdigit() and used.isdigit():
            available.append(int(limit) - int(used))
    return Budget(max(0, min(available)) * 9 // 10, float(len(os.sched_getaffinity(0))))


def _kilobytes(field: str) -> int:
    for line in read("/proc/meminfo").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 1 << 62
