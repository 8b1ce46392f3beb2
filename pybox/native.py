"""The border to C: the only importer of the extension. Numbers come from the compiled headers, see csrc/pybox.h.

A Program is a plan as C wants it (lowering.py makes it, once) and can be launched many times: what differs
from launch to launch are the container's id (the same length always, so it is written over in place) and the fds.
"""

from __future__ import annotations

import posix as os

from pybox import _native
from pybox.paths import absolute, encode
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

ffi: Any = _native.ffi
lib: Any = _native.lib

ID_TOKEN = "CONTAINER-ID"  # stands in a plan where the id of the container will be
ROW = "=IIiiIIIIQQQ"  # struct pb_row


def number(name: str) -> int:
    """Return a kernel constant or op number by its C name. Raises AttributeError when the header lacks it."""
    value: int = getattr(lib, name)
    return value


def named(text: str, identity: str) -> str:
    """Put the id of a container where a plan has its token."""
    return text.replace(ID_TOKEN, identity)


def capability(cap: int) -> str:
    """Return the name of a capability by its number, or the number when the kernel is newer than the headers."""
    names = (name for name in dir(lib) if name.startswith("CAP_") and getattr(lib, name) == cap)
    return next(names, str(cap))


class Program(Record):
    """Rows, blob and slots of a plan: everything C needs, but for the id and the fds."""

    rows: bytes
    count: int
    blob: bytes
    id_at: tuple[int, ...]  # where in the blob the id goes
    slots: tuple[tuple[str, int], ...]

    def with_words(self, words: tuple[str, ...], init: bool) -> Program:
        """Return a program that executes the same file with other words. ``init``: pybox-init does, which has them in its own."""
        from _struct import Struct

        row, rows, blob = Struct(ROW), bytearray(self.rows), bytearray(self.blob)
        last = len(rows) - row.size
        count = row.unpack_from(rows, last)[8]
        for at in (last - row.size, last) if init else (last,):
            fields = list(row.unpack_from(rows, at))
            kept = self.blob[fields[4] :].split(b"\0", fields[8])[: fields[8] - count]
            texts = [*kept, *map(encode, words)]
            fields[4], fields[8] = len(blob), len(texts)
            blob += b"\0".join(texts) + b"\0"
            row.pack_into(rows, at, *fields)
        return self.replace(rows=bytes(rows), blob=bytes(blob))


class Evidence(Record):
    """What the process saw that failed to exec: see struct pb_probe. Of a failed mount, ``head`` is what the kernel said of it."""

    stat_errno: int
    open_errno: int
    mode: int
    mount: int
    candidate: int
    head: bytes


class Failure(Record):
    """A row that failed: its index, its errno (0: the process was killed there), and the evidence of a failed exec."""

    index: int
    errno: int
    evidence: Evidence


class Child(Record):
    """A process that runs the plan's command. ``pidfd`` belongs to the caller; ``done`` are seconds since the clone, per row."""

    pid: int
    pidfd: int
    report: Any

    def times(self, count: int) -> tuple[float, ...]:
        """Return when each row was done, in seconds since just before the clone; 0.0 for rows that left no time."""
        begun = self.report.begun
        return tuple(max(0, self.report.done[row] - begun) / 1e9 for row in range(count))


def launch(
    program: Program, identity: str, fds: Mapping[str, int], leash: tuple[int, int], init: bool, report: Any = None
) -> Child | Failure:
    """Clone a process and walk the plan in it; returns when the command runs or a row has failed. Releases the GIL.

    The second fd of ``leash`` is closed here in any case. With ``init`` the first one will carry pybox-init's word. ``report``:
    a struct pb_report of the caller's, who looks at it meanwhile (explain/stepping.py).
    """
    blob = bytearray(program.blob)
    raw = identity.encode()
    for at in program.id_at:
        blob[at : at + len(raw)] = raw
    if report is None:
        report = ffi.new("struct pb_report *")
    slots = report.slots
    report.slot_count = len(program.slots)
    for name, index in program.slots:
        slots[index] = fds.get(name, -1)
    rows = ffi.from_buffer("struct pb_row[]", program.rows)
    ends = ffi.new("int[2]", leash)
    if lib.pb_launch(rows, program.count, ffi.from_buffer(blob), report, ends, init) == 0:
        return Child(report.pid, report.pidfd, report)
    seen = report.probe
    head = bytes(ffi.buffer(seen.head, seen.length))
    evidence = Evidence(seen.stat_errno, seen.open_errno, seen.mode, seen.mount, seen.candidate, head)
    return Failure(report.index, report.error, evidence)


class Usage(Record):
    """What a waited-for process and its descendants used: seconds, and bytes of the largest one."""

    status: int  # as wait(2) gives it
    cpu_user: float
    cpu_system: float
    maxrss: int
    read_bytes: int  # from block devices; from the page cache it is free
    written_bytes: int


def wait(pid: int) -> Usage:
    """Wait for a child; wait4(2). Runs Python's signal handlers when interrupted. Raises OSError (ECHILD: somebody else did)."""
    usage = ffi.new("struct pb_usage *")
    while (result := lib.pb_wait(pid, usage)) < 0:
        if result != -4:  # EINTR
            raise OSError(-result, os.strerror(-result))
    cpu = usage.user_us / 1e6, usage.system_us / 1e6
    return Usage(usage.status, *cpu, usage.maxrss_kb * 1024, usage.read_bytes, usage.written_bytes)


def _checked(result: int, path: str | None = None) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result), path)
    return result


def leash() -> tuple[int, int]:
    """Return the two ends of a close-on-exec SOCK_SEQPACKET socket, see csrc/init.c. Raises OSError."""
    ends = ffi.new("int[2]")
    _checked(lib.pb_leash(ends))
    return ends[0], ends[1]


def seal(name: str, program: bytes) -> int:
    """Return an fd of a sealed copy of a program: memfd_create(2). Raises OSError."""
    return _checked(lib.pb_seal(name.encode(), program, len(program)))


def order_network() -> None:
    """Have a network namespace made by a thread of its own, unless one is there already. Returns at once, raises nothing."""
    lib.pb_order_network()


def take_network() -> tuple[int, int]:
    """Return fds of a network namespace as good as new, loopback up, and of a socket in it; made now if none was ordered.

    Raises OSError.
    """
    socket = ffi.new("int *")
    return _checked(lib.pb_take_network(socket)), socket[0]


def forget_networks() -> None:
    """Let go of the network namespaces that no container has at the moment; the next run makes one."""
    lib.pb_forget_networks()


def return_network(socket: int) -> None:
    """Give back the namespace of a container that has ended, by the socket in it, which is not the caller's any more."""
    lib.pb_return_network(socket)


def netlink_in(netns: int) -> int:
    """Return an fd of a netlink socket that belongs to a network namespace; rtnetlink(7). Raises OSError."""
    return _checked(lib.pb_netlink_in(netns))


def open_in_root(dirfd: int, path: str, flags: int) -> int:
    """Return an fd of a path below dirfd, symlinks resolved as if dirfd were /; openat2(2). Raises OSError."""
    return _checked(lib.pb_open_in_root(dirfd, encode(path), flags), path)


def check_quota(fd: int) -> None:
    """Raise OSError (ESRCH) unless the file system of an fd has project quotas and enforces them; quotactl(2)."""
    _checked(lib.pb_has_quota(fd))


def set_quota(fd: int, project: int, size: int) -> None:
    """Limit a project to so many bytes, 0 for no limit. Raises OSError."""
    _checked(lib.pb_set_quota(fd, project, size))


def quota(fd: int, project: int) -> int:
    """Return the limit of a project in bytes, 0 for none. Raises OSError."""
    return _checked(lib.pb_quota(fd, project))


def other_end(master: int) -> int:
    """Return an fd of the other end of a terminal: through its master, so that no name is believed; ioctl_tty(2). Raises OSError."""
    from fcntl import ioctl

    ioctl(master, 0x40045431, b"\0\0\0\0")  # TIOCSPTLCK
    return ioctl(master, 0x5441, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)  # TIOCGPTPEER


def holder(flags: int, program: int) -> int:
    """Return the pid of a process that holds new namespaces open until it is killed. Raises OSError."""
    return _checked(lib.pb_holder(flags, program))


def copy_fd(pidfd: int, fd: int) -> int:
    """Return a copy of another process's fd; pidfd_getfd(2). Raises OSError."""
    return _checked(lib.pb_copy_fd(pidfd, fd))


def enter_user_namespace(fd: int) -> None:
    """Move the calling process, which may have one thread only, into a user namespace; setns(2). Raises OSError."""
    _checked(lib.pb_enter_user_namespace(fd))


def beside(program: str) -> str:
    """Return the path of one of the static programs, which lie beside this module."""
    return f"{absolute(__file__).rpartition('/')[0]}/{program}"


def init_program() -> bytes:
    """Return the bytes of pybox-init."""
    fd = os.open(beside("pybox-init"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)
