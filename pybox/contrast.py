"""A container beside its host: what is another view, what is less, and what is still the same thing for both.

Both sides are read the same way, from /proc, the host's from the process that asks. The last line is the point of it: a container
is a process of the host, and whatever no namespace, limit or filter takes away from it, it shares.
"""

from __future__ import annotations

import os

from pybox.host import read
from pybox.kernel.usage import account
from pybox.live import Live
from pybox.native import capability
from pybox.record import Record
from pybox.seen import Seen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.fastjson import Json
    from pybox.kernel.usage import Account

SAME = "= same"
_OWN = {  # namespace: (what it means to have one's own, what is shared without)
    "user": ("", "user ids"),
    "mnt": ("its own tree of files", "the tree of files"),
    "pid": ("", "processes"),
    "net": ("", "network interfaces and abstract sockets"),
    "uts": ("its own host name", "the host name"),
    "ipc": ("its own System V IPC and message queues", "System V IPC and message queues"),
    "cgroup": ("it sees its own control group as /", "the view of control groups"),
    "time": ("its own monotonic clock", ""),
}
# file systems that the kernel makes up, or pybox: a mount of another kind is a piece of the host's files
_MADE_UP = frozenset("overlay proc sysfs tmpfs devpts mqueue cgroup cgroup2 devtmpfs".split())


class Row(Record):
    """One line of the comparison."""

    what: str
    host: str
    container: str
    means: str = ""


class Contrast(Record):
    """The comparison: rows, and what both still share."""

    identity: str
    rows: tuple[Row, ...]
    shared: tuple[str, ...]

    def to_json(self) -> dict[str, Json]:
        """Return it as `pybox diff --host --format json` shows it."""
        rows: list[Json] = [{name: str(value) for name, value in row.items()} for row in self.rows]
        return {"schema": "pybox.contrast/1", "id": self.identity, "rows": rows, "shared": list(self.shared)}


def contrast(live: Live) -> Contrast:
    """Compare a running container with this process, which stands for the host. Whether it still lives, ask afterwards."""
    ours, theirs, counted = Seen(os.getpid()), Seen(live.pid), account(live.groups)
    rows = (
        *_namespaces(ours, theirs),
        _mounts(ours, theirs),
        *_rights(ours, theirs),
        *_limits(ours, theirs, live, counted),
    )
    return Contrast(live.identity, rows, tuple(_shared(ours, theirs, counted)))


def _namespaces(ours: Seen, theirs: Seen) -> Iterator[Row]:
    for kind, (meaning, without) in _OWN.items():
        host, container = (_number(seen.namespace(kind)) for seen in (ours, theirs))
        if not host:
            continue  # this kernel has no such namespace
        same = host == container
        if kind == "user":
            meaning, without = _ids(theirs), "root inside is root outside"
        elif kind == "pid":
            meaning = f"its process 1 is {theirs.pid} outside"
        elif kind == "net":
            meaning = "interfaces: " + " ".join(sorted(_links(theirs)))
        shown = f"the host's {without}" if without and kind != "user" else without
        yield Row(f"{kind} namespace", host, SAME if same else container, (shown or "the host's clocks") if same else meaning)


def _number(namespace: str) -> str:
    return namespace.partition("[")[2].rstrip("]")


def _ids(theirs: Seen) -> str:
    rows = [line.split() for line in theirs.file("uid_map").splitlines()]
    shown = [f"{first} is {outside}" if count == "1" else f"{first}+{count} is {outside}+" for first, outside, count in rows]
    return "uid inside is outside: " + ", ".join(shown)


def _links(seen: Seen) -> list[str]:
    return [line.partition(":")[0].strip() for line in seen.file("net/dev").splitlines()[2:]]


def _volumes(theirs: Seen) -> list[str]:
    return [mount.target for mount in theirs.mounts() if mount.fstype not in _MADE_UP]


def _mounts(ours: Seen, theirs: Seen) -> Row:
    mounts, volumes = theirs.mounts(), _volumes(theirs)
    root = theirs.mount("/")
    means = f"/ is {root.fstype if root else 'unknown'}" + (f"; of the host's files: {' '.join(volumes)}" if volumes else "")
    return Row("mounts", str(len(ours.mounts())), str(len(mounts)), means)


def _rights(ours: Seen, theirs: Seen) -> Iterator[Row]:
    for word, field in (("user", "Uid"), ("group", "Gid")):
        outside, seen_outside = (seen.status(field).split()[1:2] for seen in (ours, theirs))
        means = "as the host counts it" if outside != seen_outside else ""
        yield _row(f"{word} id", "".join(outside), "".join(seen_outside), means)
    have, left = (int(seen.status("CapEff") or "0", 16) for seen in (ours, theirs))
    lost = [capability(cap).removeprefix("CAP_").lower() for cap in range(64) if have & ~left & (1 << cap)]
    kept = [capability(cap).removeprefix("CAP_").lower() for cap in range(64) if left & (1 << cap)]
    means = f"kept: {' '.join(kept) or 'none'}" if len(kept) <= len(lost) else f"lost: {' '.join(lost)}"
    yield _row("capabilities", str(have.bit_count()), str(left.bit_count()), means)
    yield _row("seccomp", _filter(ours), _filter(theirs), "system calls outside of its list fail")
    yield _row("no_new_privs", ours.status("NoNewPrivs"), theirs.status("NoNewPrivs"), "setuid programs gain nothing")


def _filter(seen: Seen) -> str:
    count = seen.status("Seccomp_filters")
    return {"0": "off", "1": "strict", "2": f"filter x{count or '1'}"}.get(seen.status("Seccomp"), "unknown")


def _row(what: str, host: str, container: str, means: str) -> Row:
    return Row(what, host, SAME) if host == container else Row(what, host, container, means)


def _groups_of(seen: Seen) -> dict[str, str]:
    rows = [line.split(":", 2) for line in seen.file("cgroup").splitlines()]
    return {row[1] or "v2": row[2] for row in rows if len(row) == 3}


def _limits(ours: Seen, theirs: Seen, live: Live, counted: Account) -> Iterator[Row]:
    host, container = _groups_of(ours), _groups_of(theirs)
    own = [name for name in container if container[name] != host.get(name)]
    if own:
        yield Row("control group", host.get(own[0], "-"), container[own[0]], "its own of: " + " ".join(sorted(own)))
    else:
        yield Row("control group", next(iter(host.values()), "-"), SAME, "nothing is counted or limited for it alone")
    total = read("/proc/meminfo").partition("MemTotal:")[2].split()[:1]
    memory = str(int(total[0]) * 1024) if total else "-"
    yield Row("memory", memory, SAME if counted.memory_limit is None else str(counted.memory_limit), "bytes")
    cpus = str(len(os.sched_getaffinity(0)))
    yield Row("cpu time", cpus, SAME if counted.cpus is None else f"{counted.cpus:g}", "CPUs' worth")
    yield _row("cpu list", ours.status("Cpus_allowed_list"), theirs.status("Cpus_allowed_list"), "CPUs it may run on")
    most = read("/proc/sys/kernel/pid_max").strip()
    yield Row("processes", most, SAME if counted.pids_limit is None else str(counted.pids_limit), "at most, threads included")


def _shared(ours: Seen, theirs: Seen, counted: Account) -> Iterator[str]:
    yield f"the kernel ({os.uname().release})"
    yield "the clock"
    yield "/proc/meminfo and /proc/cpuinfo"
    yield "keyrings"
    for kind, (_, without) in _OWN.items():
        if without and ours.namespace(kind) == theirs.namespace(kind):
            yield without
    if ours.status("Cpus_allowed_list") == theirs.status("Cpus_allowed_list"):
        yield "all CPUs" if counted.cpus is None else "all CPUs, within its share"
    if counted.memory_limit is None:
        yield "all memory"
    if counted.pids_limit is None:
        yield "the supply of process ids"
    if volumes := _volumes(theirs):
        yield f"the files in {' '.join(volumes)}"
