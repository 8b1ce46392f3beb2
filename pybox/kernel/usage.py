"""What a running container uses, read from the accounts of its control groups. cgroups(7), Documentation/admin-guide/cgroup-v1

A cgroup2 group has all accounts, the parent controller permitting; on a hybrid host it has time and pressure, and one v1 group for
each controller has the rest. What no group counts is None and not 0: nobody knows it, and a job is not idle because nobody looked.
"""

from __future__ import annotations

from time import monotonic

from pybox.host import keyed, read
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

    Groups = tuple[tuple[str, str], ...]  # (controller, directory); "" is the cgroup2 group

UNLIMITED = 1 << 62  # v1 says "no limit" by the largest number of whole pages
_PIDS_MOST = 1 << 22  # PID_MAX_LIMIT: more the kernel never has, so this is no limit


class Account(Record):
    """One reading. A limit that is None, where the usage is not, is no limit."""

    at: float = 0.0  # monotonic(), seconds
    cpu: float | None = None  # seconds of all processes, those that have ended too
    cpus: float | None = None  # limit: CPUs' worth of time
    periods: int | None = None  # of the CPU quota, in which somebody ran; None without a quota
    throttled: int | None = None  # of these: in which the quota ran out
    memory: int | None = None  # bytes, page cache included: it is what the limit counts
    memory_peak: int | None = None
    memory_limit: int | None = None
    pids: int | None = None
    pids_limit: int | None = None
    read: int | None = None  # bytes from block devices
    written: int | None = None
    cpu_pressure: float | None = None  # per cent of the last 10 seconds in which some process waited for it
    memory_pressure: float | None = None
    io_pressure: float | None = None


class Usage(Record):
    """What two readings, one after the other, say together."""

    cpu_percent: float | None  # of one CPU
    throttled_percent: float | None  # of the periods
    account: Account  # the later one

    def to_json(self) -> dict[str, Json]:
        """Return the numbers as `pybox stats --format json` shows them; null is what nobody counted, or no limit."""
        shown: dict[str, Json] = {"cpu_percent": self.cpu_percent, "throttled_percent": self.throttled_percent}
        shown.update((name, value) for name, value in self.account.items() if name != "at")  # type: ignore[misc]
        return shown


def account(groups: Groups) -> Account:
    """Read what the groups count. Raises nothing: a group that is gone counts nothing."""
    cpu, quota, periods, throttled = _cpu(groups)
    memory, peak, limit = _first(groups, "memory", _MEMORY)
    pids, pids_limit = _first(groups, "pids", _PIDS)
    read_bytes, written = _io(groups)
    unified = next((path for controller, path in groups if controller == ""), None)
    return Account(
        at=monotonic(),
        cpu=cpu,
        cpus=quota,
        periods=periods if quota else None,
        throttled=throttled if quota else None,
        memory=memory,
        memory_peak=peak,
        memory_limit=None if limit is not None and limit >= UNLIMITED else limit,
        pids=pids,
        pids_limit=None if pids_limit is not None and pids_limit >= _PIDS_MOST else pids_limit,
        read=read_bytes,
        written=written,
        cpu_pressure=pressure(unified, "cpu"),
        memory_pressure=pressure(unified, "memory"),
        io_pressure=pressure(unified, "io"),
    )


def between(before: Account, after: Account) -> Usage:
    """Return what happened between two readings of the same container."""
    seconds = after.at - before.at
    percent = throttled = None
    if before.cpu is not None and after.cpu is not None and seconds > 0:
        percent = round(max(0.0, after.cpu - before.cpu) / seconds * 100, 2)
    if before.periods is not None and after.periods is not None and before.throttled is not None and after.throttled is not None:
        periods = after.periods - before.periods
        throttled = round((after.throttled - before.throttled) / periods * 100, 2) if periods > 0 else 0.0
    return Usage(percent, throttled, after)


_MEMORY = (
    ("memory.current", "memory.peak", "memory.max"),
    ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes"),
)
_PIDS = (("pids.current", "pids.max"), ("pids.current", "pids.max"))


def _first(groups: Groups, controller: str, files: tuple[tuple[str, ...], tuple[str, ...]]) -> tuple[int | None, ...]:
    """Return the numbers in the files (v2's names, v1's names) of the first group that has the first of them."""
    for name, path in groups:
        if name in ("", controller):
            wanted = files[0] if name == "" else files[1]
            numbers = tuple(_number(f"{path}/{file}") for file in wanted)
            if numbers[0] is not None:
                return numbers
    return (None,) * len(files[0])


def _number(path: str) -> int | None:
    text = read(path).strip()
    return int(text) if text.isdigit() else None


def _cpu(groups: Groups) -> tuple[float | None, float | None, int | None, int | None]:
    """Return (seconds used, CPUs allowed, periods, throttled periods)."""
    used = quota = periods = throttled = None
    for controller, path in groups:
        if controller not in ("", "cpu", "cpuacct"):
            continue
        stat = keyed(read(f"{path}/cpu.stat"))
        if used is None and "usage_usec" in stat:
            used = stat["usage_usec"] / 1e6
        nanoseconds = _number(f"{path}/cpuacct.usage")  # of v1; often mounted together with cpu
        if used is None and nanoseconds is not None:
            used = nanoseconds / 1e9
        if periods is None and "nr_periods" in stat:
            periods, throttled = stat["nr_periods"], stat.get("nr_throttled")
            quota = _quota(path, controller == "")
    return used, quota, periods, throttled


def _quota(path: str, v2: bool) -> float | None:
    words = read(f"{path}/cpu.max").split() if v2 else [read(f"{path}/cpu.cfs_{word}_us").strip() for word in ("quota", "period")]
    return (
        int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]) else None
    )


def _io(groups: Groups) -> tuple[int | None, int | None]:
    """Return (bytes read, bytes written), of all block devices."""
    for controller, path in groups:
        if controller not in ("", "blkio"):
            continue
        rows = read_lines(f"{path}/{'io.stat' if controller == '' else 'blkio.throttle.io_service_bytes'}")
        if rows is None:
            continue
        if controller == "":  # 8:0 rbytes=4096 wbytes=0 rios=1 ...
            pairs = [word.partition("=") for row in rows for word in row.split()[1:]]
            totals = [
                sum(int(value) for name, _, value in pairs if name == key and value.isdigit()) for key in ("rbytes", "wbytes")
            ]
        else:  # 8:0 Read 4096
            fields = [row.split() for row in rows]
            totals = [sum(int(row[2]) for row in fields if len(row) == 3 and row[1] == key) for key in ("Read", "Write")]
        return totals[0], totals[1]
    return None, None


def read_lines(path: str) -> list[str] | None:
    """Return the lines of a file, None when there is no such file: an empty account is one."""
    text = read(path, "\0")
    return None if text == "\0" else text.splitlines()


def pressure(path: str | None, what: str) -> float | None:
    """Return the share of the last 10 seconds in which some process waited for cpu, memory or io; PSI, None without it."""
    if path is None:
        return None
    for line in read(f"{path}/{what}.pressure").splitlines():
        words = dict(word.partition("=")[::2] for word in line.split()[1:])
        if line.startswith("some ") and "avg10" in words:
            return float(words["avg10"])
    return None
