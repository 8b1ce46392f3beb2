"""Doctor on the kernel: where this is, which system calls it has, whether children die with pybox, stall accounting."""

from __future__ import annotations

import ctypes
import errno as errnos
import os
import signal

import prctl

from pybox import native
from pybox.doctor.item import Item
from pybox.doctor.session import Host, Settings
from pybox.doctor.trial import Outcome, adopt_orphans, attempt, call
from pybox.host import read
from pybox.kernel import syscalls
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pybox.fastjson import Json

OUTER_SECCOMP = "docker run --security-opt seccomp=unconfined ...   (for the outer container; podman has the same option)"

OUTSIDE = "run pybox outside of this user namespace, or in it as a plain user: setpriv --reuid 1000 --clear-groups pybox ..."


def where(host: Host) -> Item:
    """Say where this is: it explains much of the rest."""
    return judge_where(host.settings)


def judge_where(settings: Settings) -> Item:
    """Judge the surroundings."""
    place = ", ".join(
        word for word in (f"in a container ({settings.container})" if settings.container else "", settings.machine) if word
    )
    base = Item(
        "where",
        "where this is",
        "ok",
        "looked for the marks of containers and virtual machines",
        place or "on the machine itself",
    )
    if settings.mapped:
        return base.replace(
            level="warn",
            happened=f"{base.happened}, in a user namespace",
            lost="what only the machine's root may do: device nodes, trusted.* attributes, limits that nobody has handed down",
            fix=OUTSIDE,
        )
    if settings.seccomp == 2:
        return base.replace(
            level="warn",
            happened=f"{base.happened}, under a seccomp filter from outside",
            lost="whatever that filter refuses: the items below show it",
            fix=OUTER_SECCOMP,
        )
    return base


class Calls(Record):
    """What the calls that pybox needs gave: (name, errno), 0 for success."""

    release: str
    machine: str
    errnos: tuple[tuple[str, int], ...]


def kernel(host: Host) -> Item:
    """Make each of the newer system calls that a run is made of."""
    found = [(name, _errno(name)) for name in ("clone3", "pidfd_open", "openat2")]
    # without rights or with nothing to act on they fail, but only a kernel that lacks one says ENOSYS
    harmless = {
        "close_range": (0xFFFFFFFF, 0xFFFFFFFF, 0),
        "open_tree": (-1, 0, 0),
        "mount_setattr": (-1, 0, 0, 0, 0),
        "move_mount": (-1, 0, -1, 0, 0),
    }
    numbers = syscalls.numbers(
        host.facts.machine if host.facts.machine in syscalls.TABLES else "x86_64"
    )  # these are the same everywhere
    for name, args in harmless.items():
        try:
            call(name, "syscall", ctypes.c_long(numbers[name]), *(ctypes.c_long(arg) for arg in args))
            found.append((name, 0))
        except OSError as error:
            found.append((name, errnos.ENOSYS if error.errno == errnos.ENOSYS else 0))
    return judge_kernel(Calls(host.facts.release, host.facts.machine, tuple(found)), host.settings)


def _errno(name: str) -> int:
    try:
        if name == "clone3":
            _clone3()
        else:
            os.close(os.pidfd_open(os.getpid()) if name == "pidfd_open" else _openat2())
    except OSError as error:
        return error.errno or errnos.EIO
    return 0


def _clone3() -> None:
    program = native.seal("pybox-init", native.init_program())
    try:
        pid = native.holder(0, program)
    finally:
        os.close(program)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _openat2() -> int:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return native.open_in_root(root, "proc", os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(root)


def judge_kernel(calls: Calls, settings: Settings) -> Item:
    """Judge the system calls."""
    words = "  ".join(f"{name} {'✓' if not number else errnos.errorcode.get(number, number)}" for name, number in calls.errnos)
    tried = "called " + ", ".join(name for name, _ in calls.errnos)
    base = Item(
        "kernel",
        f"kernel {calls.release}",
        "ok",
        tried,
        words,
        details=tuple((name, str(number)) for name, number in calls.errnos),
    )
    if not any(number for _, number in calls.errnos):
        return base
    if settings.seccomp == 2:
        why, fix = "a seccomp filter from outside refuses them", OUTER_SECCOMP
    else:
        why, fix = (
            "this kernel is too old",
            "boot Linux 5.14 or later (Debian: apt install linux-image-$(dpkg --print-architecture))",
        )
    return base.replace(level="fail", happened=f"{words}: {why}", lost="every run", fix=fix, blocks=("run", "rootless"))


def pdeathsig(host: Host) -> Item:
    """Let a parent die and see whether the kernel kills its child."""
    return judge_pdeathsig(attempt(_orphan))


def _orphan() -> Json:
    adopt_orphans()
    parent = os.fork()
    if parent == 0:
        _parent()
    told = os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1])
    _, status = os.waitpid(-1, 0)
    return [told, os.waitstatus_to_exitcode(status)]


def _parent() -> NoReturn:
    ready, set_ = os.pipe()
    if os.fork() == 0:
        prctl.set_pdeathsig(signal.SIGKILL)
        os.write(set_, b"1")
        signal.alarm(3)  # the end, should the kernel's signal not come
        signal.pause()
    os.read(ready, 1)
    os._exit(0)


def judge_pdeathsig(outcome: Outcome) -> Item:
    """Judge the death of the orphan: [exit code of the parent, of the child], a negative one is a signal."""
    base = Item(
        "pdeathsig",
        "dies with pybox",
        "ok",
        "ended a parent whose child had set PR_SET_PDEATHSIG",
        "the child was killed with it",
    )
    if outcome.value == [0, -signal.SIGKILL]:
        return base
    return base.replace(
        level="warn",
        happened="the child lived on" if outcome.ok else outcome.words(),
        lost="a container may outlive a pybox that is killed, until its init notices",
        fix="pybox gc   (after a pybox was killed)",
    )


def psi(host: Host) -> Item:
    """Read the stall accounting of the machine and of a control group."""
    files = ["/proc/pressure/cpu"]
    if host.facts.cgroups.unified:
        files.append(f"{host.facts.cgroups.unified}/cpu.pressure")
    seen = []
    for path in files:
        try:
            with open(path, encoding="ascii") as file:
                seen.append((path, "" if file.read() else "it is empty"))
        except OSError as error:
            seen.append((path, os.strerror(error.errno or 0)))
    return judge_psi(tuple(seen), "psi=" in read("/proc/cmdline"))


def judge_psi(seen: tuple[tuple[str, str], ...], on_command_line: bool) -> Item:
    """Judge (file, problem) pairs; a cgroup's file is missing at the root of old kernels, so the machine's decides."""
    problem = seen[0][1]
    base = Item(
        "psi",
        "stall accounting",
        "ok",
        "read " + " and ".join(path for path, _ in seen),
        "on" + (" (psi= is given)" if on_command_line else ""),
    )
    if not problem:
        return base
    return base.replace(
        level="warn",
        happened=f"{seen[0][0]}: {problem}",
        lost="how long jobs waited for CPU, memory and disk (PSI)",
        fix="add psi=1 to the kernel's command line and reboot   (needs CONFIG_PSI=y: Debian's kernels have it)",
    )
