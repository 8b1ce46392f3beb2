"""Steps on the process itself: where it is born, what it inherits, what it becomes."""

from __future__ import annotations

import posix as os

from pybox.paths import is_there
from pybox.steps.base import ChildStep, flags_text, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pybox.lowering import Table
    from pybox.seen import Seen

KINDS = {
    "CLONE_NEWNS": "mnt",
    "CLONE_NEWPID": "pid",
    "CLONE_NEWUTS": "uts",
    "CLONE_NEWIPC": "ipc",
    "CLONE_NEWNET": "net",
    "CLONE_NEWUSER": "user",
    "CLONE_NEWCGROUP": "cgroup",
}


# not cgroup.procs: there the kernel guards the whole thread group and waits 10 ms for that; the child is one thread
JOIN_V1 = "tasks"


class Clone(ChildStep):
    """Start a process in new namespaces. A container is a process, and this is its birth.

    A namespace is the kernel's answer to "what do you see?": mounts, processes, names, network, each can be a view of one's
    own. CLONE_VM and CLONE_VFORK make the birth cheap: nothing is copied, the parent's thread sleeps until the child execs.
    In a run with a user namespace there are two clones: the first enters it, the second makes the others as its citizen.
    """

    call: ClassVar[str] = "clone3"
    man: ClassVar[str] = "clone(2)"
    flags: tuple[str, ...]
    into_cgroup: str | None = None  # slot of a cgroup2 directory's fd
    sibling: bool = False  # the second clone of two

    def describe(self) -> str:
        names = ", ".join(KINDS[flag] for flag in self.flags)
        born = " inside its control group" if self.into_cgroup else ""
        return f"start a process in new namespaces ({names}){born}" if names else f"start a process{born}"

    def calls(self) -> tuple[str, ...]:
        extra = ["CLONE_VM", "CLONE_VFORK", "CLONE_CLEAR_SIGHAND"]
        extra += ["CLONE_PARENT", "CLONE_PARENT_SETTID"] if self.sibling else []
        extra += ["CLONE_INTO_CGROUP"] if self.into_cgroup else []
        return (f"clone3({{flags={flags_text((*extra, *self.flags))}, ...}})",)

    def lower(self, table: Table) -> None:
        table.row("PB_CLONE", x=table.flags(self.flags), fd=table.slot(self.into_cgroup))

    def check(self, seen: Seen) -> bool:
        return all(seen.private(KINDS[flag]) for flag in self.flags)


class EnterUserNamespace(ChildStep):
    """Enter the user namespace: root inside, a nobody outside.

    Its id map says which outside id each inside id is. All capabilities are ours in here, but only over what belongs to this
    namespace, so what comes next (mounts, host name, network) must be made in here too.
    """

    call: ClassVar[str] = "setns"
    man: ClassVar[str] = "user_namespaces(7)"
    slot: str = "userns"

    def describe(self) -> str:
        return "enter the user namespace"

    def calls(self) -> tuple[str, ...]:
        return (f"setns(<{self.slot}>, CLONE_NEWUSER)",)

    def lower(self, table: Table) -> None:
        table.row("PB_SETNS", fd=table.slot(self.slot), x=table.flags(("CLONE_NEWUSER",)))

    def check(self, seen: Seen) -> bool:
        return seen.private("user")


class JoinGroup(ChildStep):
    """Join a control group of cgroup v1. The fd was opened by the parent, and "0" means: the process that writes."""

    call: ClassVar[str] = "write"
    man: ClassVar[str] = "cgroups(7)"
    controller: str
    group: str

    def describe(self) -> str:
        return f"join the {self.controller} control group {self.group}"

    def calls(self) -> tuple[str, ...]:
        return (f'write(<cgroup:{self.controller}>, "0", 1)',)

    def lower(self, table: Table) -> None:
        table.row("PB_WRITE_FD", fd=table.slot(f"cgroup:{self.controller}"), a=table.text("0"))

    def check(self, seen: Seen) -> bool:
        return any(f":{self.controller}:" in line and line.endswith(seen.identity) for line in seen.file("cgroup").splitlines())


class OwnCgroupView(ChildStep):
    """Make the group it is in the root of what it sees of control groups. Joined first: the view begins where one stands."""

    call: ClassVar[str] = "unshare"
    man: ClassVar[str] = "cgroup_namespaces(7)"

    def describe(self) -> str:
        return "see only its own control group"

    def calls(self) -> tuple[str, ...]:
        return ("unshare(CLONE_NEWCGROUP)",)

    def lower(self, table: Table) -> None:
        table.row("PB_UNSHARE", x=table.flags(("CLONE_NEWCGROUP",)))

    def check(self, seen: Seen) -> bool:
        return seen.private("cgroup")


class SetOomScore(ChildStep):
    """Say how readily the kernel kills it when the whole machine is out of memory: 1000 first, -1000 never."""

    call: ClassVar[str] = "write"
    man: ClassVar[str] = "proc(5)"
    value: int

    def describe(self) -> str:
        return f"set oom_score_adj to {self.value}"

    def calls(self) -> tuple[str, ...]:
        text = str(self.value)
        return (
            'openat(AT_FDCWD, "/proc/self/oom_score_adj", O_WRONLY|O_NOFOLLOW|O_CLOEXEC)',
            f"write(<fd>, {quote(text)}, {len(text)})",
        )

    def lower(self, table: Table) -> None:
        table.row("PB_WRITE", a=table.text("/proc/self/oom_score_adj"), b=table.text(str(self.value)))

    def check(self, seen: Seen) -> bool:
        return seen.file("oom_score_adj").strip() == str(self.value)


class PlaceFd(ChildStep):
    """Put an fd where the command expects it: 0, 1, 2 for its streams, 3 for the leash of pybox-init."""

    call: ClassVar[str] = "dup3"
    man: ClassVar[str] = "dup(2)"
    slot: str
    at: int
    until_exec: bool = False

    def describe(self) -> str:
        return f"make {self.slot} fd {self.at}"

    def calls(self) -> tuple[str, ...]:
        return (f"dup3(<{self.slot}>, {self.at}, {'O_CLOEXEC' if self.until_exec else '0'})",)

    def lower(self, table: Table) -> None:
        table.row("PB_DUP", fd=table.slot(self.slot), x=self.at, y=table.number("O_CLOEXEC") if self.until_exec else 0)

    def check(self, seen: Seen) -> bool:
        return self.until_exec or is_there(f"/proc/{seen.pid}/fd/{self.at}")


class CloseFds(ChildStep):
    """Close every other fd: a directory of the host's that leaks in is a way out (CVE-2024-21626).

    Really closed, and before exec: /proc/self/fd/N/... would still work as the program's name if exec did the closing.
    """

    call: ClassVar[str] = "close_range"
    man: ClassVar[str] = "close_range(2)"
    first: int

    def describe(self) -> str:
        return f"close every fd from {self.first} on"

    def calls(self) -> tuple[str, ...]:
        return (f"close_range({self.first}, 4294967295, 0)",)

    def lower(self, table: Table) -> None:
        table.row("PB_CLOSE_RANGE", x=self.first, y=4294967295)

    def check(self, seen: Seen) -> bool:
        fds = [fd for fd in os.listdir(f"/proc/{seen.pid}/fd") if int(fd) >= self.first]
        # pybox-init opens one of its own, a signalfd
        return {os.readlink(f"/proc/{seen.pid}/fd/{fd}") for fd in fds} <= {"anon_inode:[signalfd]"}


class NewSession(ChildStep):
    """Leave the caller's session: no controlling terminal, so nothing can be typed into the caller's (CVE-2017-5226)."""

    call: ClassVar[str] = "setsid"
    man: ClassVar[str] = "setsid(2)"

    def describe(self) -> str:
        return "start a session without a terminal"

    def calls(self) -> tuple[str, ...]:
        return ("setsid()",)

    def lower(self, table: Table) -> None:
        table.row("PB_SETSID")

    def check(self, seen: Seen) -> bool:
        return os.getsid(seen.pid) == seen.pid


class SetUmask(ChildStep):
    """Set the file mode mask to the usual 022, whatever the caller's is; 0 while /dev and the mount points are made."""

    call: ClassVar[str] = "umask"
    man: ClassVar[str] = "umask(2)"
    mask: int

    def describe(self) -> str:
        return f"set the file mode mask to {self.mask:03o}"

    def calls(self) -> tuple[str, ...]:
        return (f"umask({f'0{self.mask:o}' if self.mask else '000'})",)

    def lower(self, table: Table) -> None:
        table.row("PB_UMASK", x=self.mask)

    def check(self, seen: Seen) -> bool:
        return self.mask == 0 or int(seen.status("Umask"), 8) == self.mask


class SetHostname(ChildStep):
    """Give it a host name of its own. The UTS namespace keeps the machine's name as it is."""

    call: ClassVar[str] = "sethostname"
    man: ClassVar[str] = "uts_namespaces(7)"
    name: str
    mine: bool = False  # the name is the container's id

    def describe(self) -> str:
        return f"set the host name to {self.name}"

    def calls(self) -> tuple[str, ...]:
        return (f"sethostname({quote(self.name)}, {len(self.name)})",)

    def lower(self, table: Table) -> None:
        table.row("PB_SETHOSTNAME", a=table.text(self.name, self.mine))

    def check(self, seen: Seen) -> bool:
        return seen.private("uts")


class DieWithParent(ChildStep):
    """Be killed when the thread that launched it ends: what is started in the foreground does not outlive its pybox."""

    call: ClassVar[str] = "prctl"
    man: ClassVar[str] = "prctl(2)"

    def describe(self) -> str:
        return "be killed when pybox dies"

    def calls(self) -> tuple[str, ...]:
        return ("prctl(PR_SET_PDEATHSIG, SIGKILL)",)

    def lower(self, table: Table) -> None:
        table.row("PB_PRCTL", x=table.flags(("PR_SET_PDEATHSIG",)), y=9)

    def check(self, seen: Seen) -> bool:
        return bool(seen.file("status"))  # the kernel shows it to nobody; tests/system/test_signals.py kills a pybox


class CheckLeash(ChildStep):
    """Make sure that pybox is still there: had it died before the step above, nobody would ever be told.

    The fd is a pidfd of pybox, which becomes readable when that process has ended.
    """

    call: ClassVar[str] = "poll"
    man: ClassVar[str] = "pidfd_open(2)"
    slot: str = "owner"

    def describe(self) -> str:
        return "go on only if pybox is still alive"

    def calls(self) -> tuple[str, ...]:
        return (f"poll([{{fd=<{self.slot}>, events=POLLIN}}], 1, 0)",)

    def lower(self, table: Table) -> None:
        table.row("PB_LEASH", fd=table.slot(self.slot))

    def check(self, seen: Seen) -> bool:
        return bool(seen.file("status"))


class BecomeInit(ChildStep):
    """Become pybox-init, process 1 of the container, which starts the command, passes signals on and reaps the dead.

    It is executed from a sealed copy in memory: nothing inside can write to the file that the next container is started from
    (CVE-2019-5736). It has no more rights than the command.
    """

    call: ClassVar[str] = "execveat"
    man: ClassVar[str] = "pid_namespaces(7)"
    paths: tuple[str, ...]
    args: tuple[str, ...]
    slot: str = "program"
    how: str = ""  # letters for pybox-init, see csrc/init.c: the command gets a terminal, it is a visitor's

    def describe(self) -> str:
        return "become pybox-init, to start the command" if "v" in self.how else "become pybox-init, process 1"

    def calls(self) -> tuple[str, ...]:
        return (f'execveat(<{self.slot}>, "", {_argv(self._argv())}, ..., AT_EMPTY_PATH)',)

    def _argv(self) -> tuple[str, ...]:
        return ("pybox-init", f"{self.how}{len(self.paths)}", *self.paths, *self.args)

    def lower(self, table: Table) -> None:
        argv = self._argv()
        table.row("PB_INIT", fd=table.slot(self.slot), a=table.texts(argv), x=len(argv))

    def check(self, seen: Seen) -> bool:
        return seen.file("comm").strip() == "pybox-init" or seen.file("cmdline").startswith("pybox-init\0")


class Exec(ChildStep):
    """Become the command. Namespaces, limits, rights: all of it is kept across exec, and from here on nothing is ours.

    A name without a slash is looked for along the container's PATH, as execvp(3) does.
    """

    call: ClassVar[str] = "execve"
    man: ClassVar[str] = "execve(2)"
    paths: tuple[str, ...]  # tried in turn
    args: tuple[str, ...]
    env: tuple[str, ...]
    named: bool = False  # the first variable is HOSTNAME with the container's id

    def describe(self) -> str:
        return "run " + " ".join(quote(arg) if " " in arg or not arg else arg for arg in self.args)

    def calls(self) -> tuple[str, ...]:
        return (f"execve({quote(self.paths[0])}, {_argv(self.args)}, ...)",)

    def lower(self, table: Table) -> None:
        table.row(
            "PB_EXEC",
            a=table.texts(self.args),
            x=len(self.args),
            b=table.texts(self.env, mine_first=self.named),
            y=len(self.env),
            c=table.texts(self.paths),
            z=len(self.paths),
        )

    def check(self, seen: Seen) -> bool:
        return bool(seen.file("cmdline"))


def _argv(words: tuple[str, ...]) -> str:
    return "[" + ", ".join(quote(word) for word in words) + "]"
