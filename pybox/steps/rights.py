"""Steps on rights: what the process may do. They come last and in this order, because each takes away what a later one could need.

Bounding set before ids (dropping needs CAP_SETPCAP), ids before capabilities (changing them needs CAP_SETUID), no_new_privs
before seccomp, seccomp right before exec: the filter holds for all that comes after it.
"""

from __future__ import annotations

from pybox import native
from pybox.steps.base import ChildStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pybox.lowering import Table
    from pybox.seen import Seen

UNLIMITED = (1 << 64) - 1


class SetRlimit(ChildStep):
    """Limit a resource of the process and each child of it. Older than control groups, and per process, not per container."""

    call: ClassVar[str] = "prlimit64"
    man: ClassVar[str] = "getrlimit(2)"
    name: str
    soft: int
    hard: int

    def describe(self) -> str:
        return f"limit {self.name} to {self.soft} (hard {self.hard})"

    def calls(self) -> tuple[str, ...]:
        return (f"prlimit64(0, RLIMIT_{self.name.upper()}, {{rlim_cur=..., rlim_max=...}}, NULL)",)

    def lower(self, table: Table) -> None:
        soft, hard = (UNLIMITED if value == -1 else value for value in (self.soft, self.hard))
        table.row("PB_SETRLIMIT", x=table.number(f"RLIMIT_{self.name.upper()}"), y=soft, z=hard)

    def check(self, seen: Seen) -> bool:
        words = [line.split() for line in seen.file("limits").splitlines()]
        wanted = ["unlimited" if value == -1 else str(value) for value in (self.soft, self.hard)]
        return any(all(value in row for value in wanted) for row in words)


class DropBounding(ChildStep):
    """Drop capabilities from the bounding set: what is not in it can't be gained by any exec, ever."""

    call: ClassVar[str] = "prctl"
    man: ClassVar[str] = "capabilities(7)"
    keep: int
    last: int

    def describe(self) -> str:
        return f"drop all but {self.keep.bit_count()} of {self.last + 1} capabilities for good"

    def calls(self) -> tuple[str, ...]:
        dropped = [cap for cap in range(self.last + 1) if not self.keep >> cap & 1]
        return tuple(f"prctl(PR_CAPBSET_DROP, {native.capability(cap)})" for cap in dropped)

    def lower(self, table: Table) -> None:
        table.row("PB_CAPBSET", x=self.keep, y=self.last)

    def check(self, seen: Seen) -> bool:
        return int(seen.status("CapBnd"), 16) & ~self.keep == 0


class SetGroups(ChildStep):
    """Set the supplementary groups: the caller's must not come along."""

    call: ClassVar[str] = "setgroups"
    man: ClassVar[str] = "setgroups(2)"
    gids: tuple[int, ...]

    def describe(self) -> str:
        return "set the supplementary groups to " + (", ".join(map(str, self.gids)) or "none")

    def calls(self) -> tuple[str, ...]:
        shown = f"[{', '.join(map(str, self.gids))}]" if self.gids else "NULL"
        return (f"setgroups({len(self.gids)}, {shown})",)

    def lower(self, table: Table) -> None:
        raw = b"".join(gid.to_bytes(4, "little") for gid in self.gids)
        table.row("PB_SETGROUPS", x=len(self.gids), a=table.raw(raw) if raw else 0)

    def check(self, seen: Seen) -> bool:
        return len(seen.status("Groups").split()) == len(set(self.gids))


class SetGid(ChildStep):
    """Take the group id, in all three places (real, effective, saved). Before the user id: after it the right is gone."""

    call: ClassVar[str] = "setresgid"
    man: ClassVar[str] = "setresuid(2)"
    gid: int
    early: bool = False  # on the way to becoming root of a user namespace

    def describe(self) -> str:
        return f"become group {self.gid}"

    def calls(self) -> tuple[str, ...]:
        return (f"setresgid({self.gid}, {self.gid}, {self.gid})",)

    def lower(self, table: Table) -> None:
        table.row("PB_SETRESGID", x=self.gid)

    def check(self, seen: Seen) -> bool:
        return self.early or set(seen.status("Gid").split()) == {str(_outside(seen.file("gid_map"), self.gid))}


def _outside(map_text: str, number: int) -> int:
    """Return what an id inside is outside, by uid_map or gid_map; user_namespaces(7)."""
    for line in map_text.splitlines():
        inside, outside, count = map(int, line.split())
        if inside <= number < inside + count:
            return outside + number - inside
    return number


class SetUid(ChildStep):
    """Take the user id, in all three places, so that there is no way back. Leaving uid 0 empties the capability sets."""

    call: ClassVar[str] = "setresuid"
    man: ClassVar[str] = "setresuid(2)"
    uid: int
    early: bool = False

    def describe(self) -> str:
        return f"become user {self.uid}"

    def calls(self) -> tuple[str, ...]:
        return (f"setresuid({self.uid}, {self.uid}, {self.uid})",)

    def lower(self, table: Table) -> None:
        table.row("PB_SETRESUID", x=self.uid)

    def check(self, seen: Seen) -> bool:
        return self.early or set(seen.status("Uid").split()) == {str(_outside(seen.file("uid_map"), self.uid))}


class SetCapabilities(ChildStep):
    """Keep a few capabilities and give up the others. Root's power is this list, not the number 0.

    Inheritable and ambient stay empty: a set that is not empty there has handed rights to the wrong program (CVE-2022-29162).
    """

    call: ClassVar[str] = "capset"
    man: ClassVar[str] = "capabilities(7)"
    keep: int

    def describe(self) -> str:
        return f"keep {self.keep.bit_count()} capabilities"

    def calls(self) -> tuple[str, ...]:
        return ("capset({version=_LINUX_CAPABILITY_VERSION_3, pid=0}, {effective=..., permitted=..., inheritable=0})",)

    def lower(self, table: Table) -> None:
        table.row("PB_CAPSET", x=self.keep)

    def check(self, seen: Seen) -> bool:
        empty = all(int(seen.status(name), 16) == 0 for name in ("CapInh", "CapAmb"))
        return empty and int(seen.status("CapEff"), 16) & ~self.keep == 0


class NoNewPrivileges(ChildStep):
    """Promise that no exec will grant more rights than there are now: set-user-ID programs run as their caller."""

    call: ClassVar[str] = "prctl"
    man: ClassVar[str] = "prctl(2)"

    def describe(self) -> str:
        return "gain no privileges by exec, ever"

    def calls(self) -> tuple[str, ...]:
        return ("prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)",)

    def lower(self, table: Table) -> None:
        table.row("PB_PRCTL", x=table.flags(("PR_SET_NO_NEW_PRIVS",)), y=1)

    def check(self, seen: Seen) -> bool:
        return seen.status("NoNewPrivs") == "1"


LISTENER = "listener"  # a slot


class InstallFilter(ChildStep):
    """Install the seccomp filter: a small program that the kernel runs at each system call and that says yes or which error.

    It is an allow-list. What it does not know gets ENOSYS, so that C libraries fall back to older calls; what is known to be
    dangerous gets EPERM.
    """

    call: ClassVar[str] = "seccomp"
    man: ClassVar[str] = "seccomp(2)"
    program: bytes
    name: str
    listen: bool = False  # refusals are asked of who holds the listener: pybox why-denied

    def describe(self) -> str:
        return f"filter system calls by the {self.name} profile ({len(self.program) // 8} instructions)"

    def calls(self) -> tuple[str, ...]:
        flags = "SECCOMP_FILTER_FLAG_NEW_LISTENER" if self.listen else "0"
        return (f"seccomp(SECCOMP_SET_MODE_FILTER, {flags}, {{len={len(self.program) // 8}, filter=...}})",)

    def lower(self, table: Table) -> None:
        flags = table.flags(("SECCOMP_FILTER_FLAG_NEW_LISTENER",) if self.listen else ())
        out = table.slot(LISTENER if self.listen else None)
        table.row("PB_SECCOMP", a=table.raw(self.program), x=len(self.program) // 8, y=flags, out=out)

    def check(self, seen: Seen) -> bool:
        return seen.status("Seccomp") == "2"
