"""The processes of a container, from the host's /proc alone. Nothing of the image is run or loaded for it (CVE-2022-1227).

They are found by the control group if there is one, else by the PID namespace of process 1 and those below it. Each /proc/PID is
opened first and asked for its membership afterwards: an open one belongs to one process for ever, and is empty when that is dead.
"""

from __future__ import annotations

import os

from pybox.host import lines_of
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.fastjson import Json
    from pybox.kernel.usage import Groups

_MOST = 4096  # bytes of a command line: a container may make it megabytes long
_TICKS = os.sysconf("SC_CLK_TCK")


class Process(Record):
    """One process of a container. ``command`` is what it says of itself: anything at all may be in it."""

    pid: int  # in the container's own PID namespace, or the innermost one below it
    host_pid: int
    parent: int  # on the host
    user: int | None  # effective uid inside; None where the container has no number for it
    host_user: int
    state: str  # R running, S sleeping, D uninterruptible, Z dead and not reaped, T stopped; proc_pid_stat(5)
    threads: int
    seconds: float  # of CPU time
    rss: int  # bytes
    name: str
    command: str

    def to_json(self) -> dict[str, Json]:
        """Return the fields."""
        return dict(self.items())  # type: ignore[arg-type]


def processes(pid: int, groups: Groups) -> tuple[Process, ...]:
    """Return the processes of the container whose process 1 has this pid on the host; empty when it has ended."""
    paths = [path for _, path in groups if os.path.isdir(path)]
    found = _of_group(paths[0]) if paths else _of_namespace(pid)
    return tuple(sorted(found, key=lambda process: process.host_pid))


def _of_group(path: str) -> Iterator[Process]:
    """Yield the processes of a group and of those below it."""
    name = f"/{path.rsplit('/', 1)[-1]}"
    for folder, _, _ in os.walk(path):
        for pid in _text(f"{folder}/cgroup.procs").split():
            with _Opened(int(pid)) as seen:
                places = [line.split(":", 2)[2] for line in lines_of(seen.text("cgroup")) if line.count(":") >= 2]
                if any(place.endswith(name) or f"{name}/" in place for place in places) and (process := seen.process()):
                    yield process


def _of_namespace(first: int) -> Iterator[Process]:
    with _Opened(first) as seen:
        wanted = {seen.link("ns/pid")} - {""}
    if not wanted or wanted == {_link("/proc/self/ns/pid")}:  # the host's: then only its own process is known to be its
        with _Opened(first) as seen:
            process = seen.process()
        if process:
            yield process
        return
    inside: set[int] = set()
    later: list[tuple[Process, str]] = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with _Opened(int(name)) as seen:
                space, process = seen.link("ns/pid"), seen.process()
            if process and space in wanted:
                inside.add(process.host_pid)
                yield process
            elif process and process.pid != process.host_pid:
                later.append((process, space))
    # a PID namespace that was made inside: its processes are children of ours
    while grown := [pair for pair in later if pair[0].parent in inside or pair[1] in wanted]:
        for process, space in grown:
            inside.add(process.host_pid)
            wanted.add(space)
            yield process
        later = [pair for pair in later if pair not in grown]


class _Opened:
    """An open /proc/PID."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fd = -1

    def __enter__(self) -> _Opened:
        try:
            self.fd = os.open(f"/proc/{self.pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            pass
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def text(self, name: str, most: int = 65536) -> str:
        """Return the text of a file, "" when the process is gone."""
        return "" if self.fd < 0 else _text(name, most, self.fd)

    def link(self, name: str) -> str:
        """Return where a link points, "" when the process is gone or not ours to look at."""
        return "" if self.fd < 0 else _link(name, self.fd)

    def process(self) -> Process | None:
        """Return all that is shown of it, None when it is gone."""
        fields = dict(line.partition(":\t")[::2] for line in self.text("status").splitlines())
        name, _, stat = self.text("stat").partition("(")[2].rpartition(") ")
        words = stat.split()
        if len(words) < 18 or "Uid" not in fields:
            return None
        uid = int(fields["Uid"].split()[1])
        said = self.text("cmdline", _MOST)
        command = said.rstrip("\0").replace("\0", " ") + ("..." if len(said) == _MOST else "")
        return Process(
            pid=int(fields.get("NSpid", str(self.pid)).split()[-1]),
            host_pid=self.pid,
            parent=int(words[1]),
            user=inside_id(uid, self.text("uid_map")),
            host_user=uid,
            state=words[0],
            threads=int(words[17]),
            seconds=(int(words[11]) + int(words[12])) / _TICKS,
            rss=int(fields.get("VmRSS", "0").split()[0]) * 1024,
            name=name,
            command=command or f"[{name}]",
        )


def inside_id(outside: int, id_map: str) -> int | None:
    """Return an id as the process itself sees it, by the text of its /proc/PID/uid_map; user_namespaces(7)."""
    for line in id_map.splitlines():
        inside, first, count = (int(word) for word in line.split())
        if first <= outside < first + count:
            return inside + outside - first
    return None


def _text(path: str, most: int = 1 << 20, dir_fd: int | None = None) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:
        return ""
    try:
        parts, left = [], most
        while left > 0 and (part := os.read(fd, left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts).decode(errors="backslashreplace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def _link(path: str, dir_fd: int | None = None) -> str:
    try:
        return os.readlink(path, dir_fd=dir_fd)
    except OSError:
        return ""
