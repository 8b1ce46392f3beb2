"""What a container has cost: read from its control groups before they are removed. cgroups(7)"""

from __future__ import annotations

from pybox.host import keyed, read
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

STALL = 0.05  # seconds: a run that is over sooner is not asked how long it waited for what, which costs more than the answer says


class Bill(Record):
    """What the groups say of a container that has ended; None where no group counted."""

    memory_peak: int | None = None  # bytes
    oom_kills: int = 0
    limit_hits: tuple[tuple[str, int], ...] = ()  # how often a limit was run into: memory, pids, cpu (throttled periods)
    io_read: int | None = None  # bytes, over all block devices
    io_written: int | None = None
    pids_peak: int | None = None  # Linux 6.10
    stall: tuple[tuple[str, float], ...] = ()  # seconds that some process waited for cpu, memory, io

    def with_usage(self, peak: int | None, usage: tuple[int, int]) -> dict[str, Any]:
        """Return the fields of a Result; where no group counted, by what wait4(2) says: the peak, and bytes read and written."""
        fields = dict(self.items())
        del fields["oom_kills"]
        others = {"memory_peak": peak, "io_read": usage[0], "io_written": usage[1]}
        return {name: others.get(name) if value is None else value for name, value in fields.items()}


def bill(paths: tuple[tuple[str, str], ...], stalls: bool = True) -> Bill:
    """Read the account of a run's groups (controller, directory) before they are removed; with ``stalls`` the pressure files too."""
    peak, kills, hits = None, 0, []
    pids_peak, io = None, {}
    stall: tuple[tuple[str, float], ...] = ()
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
            text = read(f"{path}/pids.peak").strip()
            pids_peak = int(text) if text.isdigit() else pids_peak
        if v2 or controller == "cpu":
            hits.append(("cpu", keyed(read(f"{path}/cpu.stat")).get("nr_throttled", 0)))
        if v2 and stalls:
            io = _transferred(read(f"{path}/io.stat"))
            stall = tuple(_stalls(path))
    counts = tuple((name, count) for name, count in hits if count)
    return Bill(peak, kills, counts, io.get("rbytes"), io.get("wbytes"), pids_peak, stall)


def _transferred(text: str) -> dict[str, int]:
    """Return the sums over all devices of an io.stat file: one line a device, "8:0 rbytes=1 wbytes=2 ..."."""
    total: dict[str, int] = {}
    for word in text.split():
        name, equals, count = word.partition("=")
        if equals and count.isdigit():
            total[name] = total.get(name, 0) + int(count)
    return total


def _stalls(path: str) -> Iterator[tuple[str, float]]:
    """Yield (resource, seconds) of the pressure files: "some avg10=0.00 avg60=0.00 avg300=0.00 total=MICROSECONDS"; accounting/psi.rst."""
    for name in ("cpu", "memory", "io"):
        total = read(f"{path}/{name}.pressure").partition("total=")[2].partition("\n")[0]
        if total.isdigit():
            yield name, int(total) / 1e6
