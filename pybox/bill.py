"""What a container has cost: read from its control groups before they are removed. cgroups(7)"""

from __future__ import annotations

from pybox.host import keyed, read
from pybox.record import Record


class Bill(Record):
    """What the groups say of a container that has ended; None where no group counted."""

    memory_peak: int | None = None  # bytes
    oom_kills: int = 0
    limit_hits: tuple[tuple[str, int], ...] = ()  # how often a limit was run into: memory, pids, cpu (throttled periods)


def bill(paths: tuple[tuple[str, str], ...]) -> Bill:
    """Read the account of a run's groups (controller, directory) before they are removed."""
    peak, kills, hits = None, 0, []
    for controller, path in paths:
        v2 = controller == ""
        if v2 or controller == "memory":
            text = read(f"{path}/{'memory.peak' if v2 else 'memory.max_usage_in_bytes'}").strip()
            peak = int(text) if text.isdigit() else peak
            events = keyed(read(f"{path}/{'memory.events' if v2 else 'memory.oom_control'}"))
            kills += events.get("oom_kill", 0)
            count = events.get("max", 0) if v2 else int(read(f"{path}/memory.failcnt").strip() or 0)
            # v1 counts nothing when the limits of memory and of memory with swap are met at once
            count = max(count, events.get("oom_kill", 0))
            hits.append(("memory", count))
        if v2 or controller == "pids":
            hits.append(("pids", keyed(read(f"{path}/pids.events")).get("max", 0)))
        if v2 or controller == "cpu":
            hits.append(("cpu", keyed(read(f"{path}/cpu.stat")).get("nr_throttled", 0)))
    return Bill(peak, kills, tuple((name, count) for name, count in hits if count))
