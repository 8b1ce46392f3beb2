"""Steps on the host, before the clone. Each one leaves something behind until it is undone; the journal knows of it first.

There are few, by design: what lives in the container's own namespaces dies with them.
"""

from __future__ import annotations

import posix as os

from pybox import native
from pybox.errors import LimitError, PyboxError
from pybox.host import SELF_GROUP, read
from pybox.paths import environment, is_dir, make_dirs
from pybox.steps.base import Desk, HostStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pybox.seen import Seen

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class MakeUpper(HostStep):
    """Make the writable layer: what the container changes is kept here, apart from the image."""

    call: ClassVar[str] = "mkdir"
    man: ClassVar[str] = "mkdir(2)"
    path: str
    owner: int | None = None  # the outside id of the container's root, when that is not the caller

    def describe(self) -> str:
        return f"make the writable layer {self.path}"

    def calls(self) -> tuple[str, ...]:
        return tuple(f'mkdir("{path}", 0{mode:o})' for path, mode in self._directories())

    def _directories(self) -> tuple[tuple[str, int], ...]:
        # upper becomes the container's /, so it must be open to the container's users
        return (self.path, 0o700), (f"{self.path}/u", 0o755), (f"{self.path}/w", 0o700)

    def leaves(self) -> tuple[tuple[str, str], ...]:
        return (("tree", self.path),)

    def apply(self, desk: Desk) -> None:
        for path, mode in self._directories():
            os.mkdir(desk.named(path), mode)
        top = desk.named(f"{self.path}/u")
        os.chmod(top, 0o755)  # whatever the umask
        if self.owner is not None:
            os.chown(top, self.owner, self.owner)

    def check(self, seen: Seen) -> bool:
        return is_dir(seen.named(self.path))


class EnableControllers(HostStep):
    """Let groups below a cgroup2 group have controllers. It stays: it takes nothing from anybody.

    A group that has processes can't have controllers below it (the no-internal-process rule). A plain user's pybox runs in the
    very group that was delegated to it, so it first moves itself out of the way, into a group of its own beside its containers.
    """

    call: ClassVar[str] = "write"
    man: ClassVar[str] = "cgroups(7)"
    group: str
    controllers: tuple[str, ...]
    step_aside: bool = False
    optional: bool = False  # only to count; no limit depends on it

    def describe(self) -> str:
        return f"enable {', '.join(self.controllers)} below {self.group}"

    def calls(self) -> tuple[str, ...]:
        wanted = " ".join("+" + name for name in self.controllers)
        return (f'write("{self.group}/cgroup.subtree_control", "{wanted}")',)

    def apply(self, desk: Desk) -> None:
        try:
            self._enable()
        except (OSError, LimitError):
            if not self.optional:
                raise

    def _enable(self) -> None:
        make_dirs(self.group, 0o755)
        path = f"{self.group}/cgroup.subtree_control"
        missing = [name for name in self.controllers if name not in read(path).split()]
        if not missing:
            return
        if self.step_aside:
            self._step_aside()
        try:
            _write(path, " ".join("+" + name for name in missing))
        except OSError as error:
            absent = [name for name in missing if name not in read(f"{self.group}/cgroup.controllers").split()]
            if absent:
                raise LimitError(
                    f"cgroup controller {', '.join(absent)} is not available in {self.group}",
                    "enable it in the groups above, or use --best-effort",
                ) from None
            if error.errno == 16:
                raise LimitError(
                    f"cannot enable {', '.join(missing)} in {self.group}: it contains processes (no-internal-process rule)",
                    "run it through: systemd-run --user --scope -p Delegate=yes pybox ...",
                ) from None
            raise

    def _step_aside(self) -> None:
        own = str(os.getpid())
        others = [pid for pid in read(f"{self.group}/cgroup.procs").split() if pid != own]
        if others:  # said before anything is written: half of the controllers would make the group threaded
            raise LimitError(
                f"cannot enable {', '.join(self.controllers)} in {self.group}: processes {' '.join(others[:5])} are in it",
                "run only pybox in a scope of its own: systemd-run --user --scope -p Delegate=yes pybox ...",
            )
        if own in read(f"{self.group}/cgroup.procs").split():
            make_dirs(f"{self.group}/{SELF_GROUP}", 0o755)
            _write(f"{self.group}/{SELF_GROUP}/cgroup.procs", own)

    def check(self, seen: Seen) -> bool:
        return self.optional or set(self.controllers) <= set(read(f"{self.group}/cgroup.subtree_control").split())


class MakeGroup(HostStep):
    """Make a control group for the container: the kernel's account of what its processes use together, and its limits on it.

    The child is born in a cgroup2 group (CLONE_INTO_CGROUP), and joins one of v1 by its own first write.
    """

    call: ClassVar[str] = "mkdir"
    man: ClassVar[str] = "cgroups(7)"
    path: str
    slot: str
    join: str = ""  # "" opens the directory for clone3, else the file to write the pid to
    killer: bool = False  # open the file that ends all of its processes, too

    def describe(self) -> str:
        return f"make the control group {self.path}"

    def calls(self) -> tuple[str, ...]:
        return (f'mkdir("{self.path}", 0755)',)

    def leaves(self) -> tuple[tuple[str, str], ...]:
        return (("group", self.path),)

    def apply(self, desk: Desk) -> None:
        path = desk.named(self.path)
        os.mkdir(path, 0o755)
        flags = os.O_WRONLY | os.O_CLOEXEC if self.join else _DIRECTORY
        desk.fds[self.slot] = os.open(f"{path}/{self.join}" if self.join else path, flags)
        if self.killer:
            desk.fds["cgroup.kill"] = os.open(f"{path}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)

    def check(self, seen: Seen) -> bool:
        return is_dir(seen.named(self.path))


class SetLimit(HostStep):
    """Write one limit of the control group."""

    call: ClassVar[str] = "write"
    man: ClassVar[str] = "cgroups(7)"
    path: str
    value: str
    what: str  # the option that asked for it
    optional: bool = False  # nobody asked for it by name
    best_effort: bool = False

    def describe(self) -> str:
        return f"set {self.path.rsplit('/', 1)[-1]} to {self.value}"

    def calls(self) -> tuple[str, ...]:
        return (f'write("{self.path}", "{self.value}")',)

    def apply(self, desk: Desk) -> None:
        try:
            _write(desk.named(self.path), self.value)
        except OSError as error:
            if self.optional and isinstance(error, FileNotFoundError):
                return
            reason = "this kernel has no such limit" if isinstance(error, FileNotFoundError) else str(error.strerror)
            if self.best_effort:
                desk.dropped[self.what] = reason
                return
            raise LimitError(
                f"cannot enforce {self.what}: write {self.value} to {desk.named(self.path)}: {reason}",
                "`pybox doctor` says what this host can limit; --best-effort runs without",
            ) from None

    def check(self, seen: Seen) -> bool:
        return self.optional or read(seen.named(self.path)).strip() != ""


class MakeUserNamespace(HostStep):
    """Make a user namespace and write its id maps. It must be done from outside: a process can't map more than itself.

    A process holds the namespace until pybox has an fd of it, then goes. The fd dies with pybox, so nothing is left behind.
    """

    call: ClassVar[str] = "clone3"
    man: ClassVar[str] = "user_namespaces(7)"
    uids: tuple[tuple[int, int, int], ...]  # (inside, outside, count)
    gids: tuple[tuple[int, int, int], ...]
    helper: bool = False  # newuidmap(1) and newgidmap(1) write what a plain user may not
    network: bool = False  # with a network namespace that belongs to it, to be wired up before anybody is in it; not reused

    def describe(self) -> str:
        shown = ", ".join(f"{inside}->{outside} ({count})" for inside, outside, count in self.uids)
        return f"make a user namespace{' and a network namespace of its own' if self.network else ''}, uids {shown}"

    def calls(self) -> tuple[str, ...]:
        flags = "CLONE_VM|CLONE_VFORK|CLONE_CLEAR_SIGHAND|CLONE_NEWUSER" + ("|CLONE_NEWNET" if self.network else "")
        return (f"clone3({{flags={flags}}})", f'write("/proc/PID/uid_map", "{_map_text(self.uids)}")')

    def _key(self) -> str:
        return f"userns {self.uids} {self.gids}"

    def apply(self, desk: Desk) -> None:
        if self.network:
            desk.fds["own-userns"] = self._make(desk)  # the desk closes it, unlike one that is reused
            desk.fds["userns"] = desk.fds["own-userns"]
            return
        if self._key() not in desk.reuse:
            desk.reuse[self._key()] = self._make(desk)
        desk.fds["userns"] = desk.reuse[self._key()]

    def _make(self, desk: Desk) -> int:
        flags = native.number("CLONE_NEWUSER") | (native.number("CLONE_NEWNET") if self.network else 0)
        pid = native.holder(flags, desk.reuse["program"])
        try:
            self._write_maps(pid)
            if self.network:
                desk.fds["netns"] = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)

    def _write_maps(self, pid: int) -> None:
        if self.helper:
            for program, ranges in (("newuidmap", self.uids), ("newgidmap", self.gids)):
                words = [str(number) for entry in ranges for number in entry]
                code = os.waitstatus_to_exitcode(
                    os.waitpid(os.posix_spawnp(program, [program, str(pid), *words], environment()), 0)[1]
                )
                if code:
                    refused = PyboxError(f"{program} failed with status {code}", "check /etc/subuid and /etc/subgid: subuid(5)")
                    refused.code = "E-SUBUID"
                    raise refused
            return
        if os.geteuid() != 0:
            _write(f"/proc/{pid}/setgroups", "deny")  # else dropping a group could grant access (CVE-2014-8989)
        _write(f"/proc/{pid}/uid_map", _map_text(self.uids))
        _write(f"/proc/{pid}/gid_map", _map_text(self.gids))

    def check(self, seen: Seen) -> bool:
        found = [tuple(int(word) for word in line.split()) for line in seen.file("uid_map").splitlines()]
        return tuple(found) == self.uids


def _map_text(ranges: tuple[tuple[int, int, int], ...]) -> str:
    return "\n".join(" ".join(str(number) for number in entry) for entry in ranges)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
