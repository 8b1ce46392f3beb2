"""Doctor on control groups: how they are laid out, whether each limit holds, and whether a group can be frozen and killed.

A limit is tried with the very steps that a run has (kernel/cgroup.py): the group is made, the limit written, a process joins it and
says where it is, the group is removed. On a cgroup2 host a controller that the run would have to enable below the parent group stays
enabled, as after a run: to disable it again could take another container's limits away.
"""

from __future__ import annotations

import os
import select
import signal
import time

from pybox.doctor.item import Item
from pybox.doctor.session import Host, Settings
from pybox.doctor.trial import attempt, die_with, write
from pybox.errors import LimitError
from pybox.host import Cgroups, read
from pybox.image.model import Image
from pybox.kernel import cgroup as room
from pybox.kernel.inputs import Inputs
from pybox.record import Record
from pybox.seen import mounts
from pybox.spec import Limits, Spec
from pybox.steps.base import Desk
from pybox.undo import undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json


class Layout(Record):
    """The control group file systems of this host."""

    unified: str = ""  # where cgroup2 is mounted
    controllers: tuple[str, ...] = ()  # that the cgroup2 tree offers
    v1: tuple[str, ...] = ()  # controllers with a v1 hierarchy
    own: str = ""  # our own cgroup2 group, as /proc/self/cgroup has it

    @property
    def kind(self) -> str:
        """v2, hybrid, v1 or none."""
        return ("hybrid" if self.v1 else "v2") if self.unified else ("v1" if self.v1 else "none")


def layout() -> Layout:
    """Read the layout."""
    unified, v1 = "", []
    known = {line.split()[0] for line in read("/proc/cgroups").splitlines()}
    for mount in mounts(read("/proc/self/mountinfo")):
        if mount.fstype == "cgroup2":
            unified = unified or mount.target
        elif mount.fstype == "cgroup":
            v1 += sorted(mount.super_options & known)
    own = next((line[3:] for line in read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "")
    return Layout(unified, tuple(read(f"{unified}/cgroup.controllers").split()) if unified else (), tuple(v1), own)


def cgroup(host: Host) -> Item:
    """Look how control groups are laid out."""
    return judge_cgroup(layout(), host.facts.root, host.settings)


def pure_fix(settings: Settings) -> str:
    """Return how this host becomes one with cgroup v2 alone."""
    if settings.machine == "WSL":
        return "in .wslconfig, under [wsl2]: kernelCommandLine = cgroup_no_v1=all   then: wsl --shutdown"
    if settings.systemd:
        return "add systemd.unified_cgroup_hierarchy=1 to the kernel's command line and reboot"
    return "add cgroup_no_v1=all to the kernel's command line, and mount cgroup2 on /sys/fs/cgroup at boot (no systemd here to do it)"


def judge_cgroup(seen: Layout, root: bool, settings: Settings) -> Item:
    """Judge the layout: v2 alone is what all of pybox works with."""
    base = Item("cgroup", "cgroup layout", "ok", "looked for the cgroup file systems", "", details=(("layout", seen.kind),))
    if seen.kind == "v2":
        return base.replace(
            happened=f"v2 at {seen.unified}, offers {' '.join(seen.controllers) or 'no controllers'}; we are in {seen.own or '/'}"
        )
    if seen.kind == "hybrid":
        happened = f"HYBRID: v2 is at {seen.unified} and offers only: {' '.join(seen.controllers) or 'nothing'}; v1 has {' '.join(seen.v1)}"
    elif seen.kind == "v1":
        happened = f"v1 only: {' '.join(seen.v1)}"
    else:
        happened = "no cgroup file system is mounted"
    if seen.kind == "none":
        lost = "--memory --cpus --pids-limit --cpuset-cpus, --pid host"
    else:
        lost = (
            "limits for plain users" + (" (root has them, through v1)" if root else "") + ("" if seen.unified else "; --pid host")
        )
    fix = "sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup" if seen.kind == "none" else pure_fix(settings)
    return base.replace(level="warn", happened=happened, lost=lost, fix=fix)


class Held(Record):
    """What came of one limit: ``how`` is "cgroup v1" or "cgroup v2", or "" with the problem."""

    controller: str
    option: str
    how: str = ""
    problem: str = ""
    hint: str = ""


def trials() -> tuple[tuple[str, str, Limits], ...]:
    """Return (controller, option, limits) of each trial."""
    cpu = str(min(os.sched_getaffinity(0)))
    return (
        ("memory", "--memory", Limits(memory=16 << 20)),
        ("pids", "--pids-limit", Limits(pids=8)),
        ("cpu", "--cpus", Limits(cpus=0.5)),
        ("cpuset", "--cpuset-cpus", Limits(cpuset_cpus=cpu)),
    )


def limits(host: Host) -> Item:
    """Try each limit on a process."""
    held = tuple(_try(host, controller, option, wanted) for controller, option, wanted in trials())
    return judge_limits(held, host.facts.cgroups, host.facts.root, host.settings)


def _try(host: Host, controller: str, option: str, wanted: Limits) -> Held:
    given = Inputs(Spec("host", limits=wanted), host.facts, Image("host", "host", ("/",)), host.dirs)
    desk = Desk(host.identity, {})
    failed = Held(controller, option)
    leaves: list[tuple[str, str]] = []
    try:
        how = dict(room.effective(given))[option]
        paths = [desk.named(path) for _, path in room.groups(given)]
        for step in room.prepare(given):
            leaves += step.leaves()
            step.apply(desk)
        joined = attempt(lambda: _join(paths))
        if not joined.ok:
            return failed.replace(problem=joined.words())
        if joined.value != [True, wanted.cpuset_cpus or joined.value[1]]:  # type: ignore[index]
            return failed.replace(problem=f"a process joined the group, but /proc/self/cgroup and its CPUs say {joined.value}")
        return failed.replace(how=how)
    except LimitError as error:
        return failed.replace(problem=error.message, hint=error.hint or "")
    except OSError as error:
        return failed.replace(problem=f"{error.filename}: {error.strerror}")
    finally:
        for fd in desk.fds.values():
            os.close(fd)
        for verb, path in reversed(leaves):
            undo(verb, desk.named(path))


def _join(paths: list[str]) -> Json:
    for path in paths:
        write(f"{path}/cgroup.procs", "0")
    here = read("/proc/self/cgroup").splitlines()
    names = [path.rsplit("/", 1)[-1] for path in paths]
    cpus = ",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0)))
    return [all(any(line.endswith(name) for line in here) for name in names), cpus]


_CONFIG = {
    "memory": "CONFIG_MEMCG=y",
    "pids": "CONFIG_CGROUP_PIDS=y",
    "cpu": "CONFIG_CFS_BANDWIDTH=y",
    "cpuset": "CONFIG_CPUSETS=y",
}


def _delegation(fix: str, settings: Settings) -> str:
    """Return how a plain user on a cgroup2 host gets a group: facts have systemd's way, and not every host has systemd."""
    if not settings.systemd:
        return "sudo pybox run ...   (no systemd here that could delegate a group)"
    command = fix.removeprefix("run it through: ")
    return f"{command}   (for cpu and cpuset first a drop-in for user@.service with Delegate=yes, then log out and in)"


def judge_limits(held: tuple[Held, ...], groups: Cgroups, root: bool, settings: Settings) -> Item:
    """Judge the trials. A limit that does not hold blocks no run: a run that asks for it is refused."""
    words = "  ".join(f"{one.controller} {'✓' if one.how else '✗'}" for one in held)
    adapter = "through cgroup v1 below our own group" if any(one.how == "cgroup v1" for one in held) else "cgroup v2"
    details = tuple((one.controller, one.how or f"none: {one.problem}") for one in held)
    base = Item(
        "limits",
        "limits",
        "ok",
        "made a group for each, wrote the limit, let a process join, removed it",
        f"{words}  ({adapter})",
        details=details,
    )
    bad = [one for one in held if not one.how]
    if not bad:
        return base
    if not root and groups.unified is None and groups.fix:
        fix = _delegation(groups.fix, settings)
    elif not root and groups.unified is None:
        fix = f"sudo pybox run ...   or: {pure_fix(settings)}"
    elif not groups.controllers and not groups.v1:
        fix = pure_fix(settings)
    else:
        # a run's own message sends its reader to doctor, so that hint is none here
        hints = [one.hint.partition("; --best-effort")[0] for one in bad if one.hint and "pybox doctor" not in one.hint]
        wanted = " ".join(_CONFIG[one.controller] for one in bad)
        fix = hints[0] if hints else f"enable the controllers in the groups above, or boot a kernel with {wanted}"
    reasons = "; ".join(dict.fromkeys(one.problem.removeprefix(f"cannot enforce {one.option}: ") for one in bad))
    return base.replace(level="fail", happened=f"{words}: {reasons}", lost=" ".join(one.option for one in bad), fix=fix)


class Ended(Record):
    """What came of freezing and killing a group; "" where it worked."""

    group: str
    freeze: str = ""
    kill: str = ""


def kill(host: Host) -> Item:
    """Freeze a sleeping process by its cgroup2 group, and kill it by cgroup.kill."""
    parent = host.facts.cgroups.unified
    if parent is None:
        return judge_kill(None, host.facts.cgroups.problem, host.facts.cgroups.fix, host.settings)
    return judge_kill(_freeze_and_kill(f"{parent}/pybox-{host.identity}"), "", "", host.settings)


def _freeze_and_kill(path: str) -> Ended:
    ended = Ended(path)
    try:
        os.mkdir(path, 0o755)
    except OSError as error:
        return ended.replace(freeze=f"mkdir: {error.strerror}", kill=f"mkdir: {error.strerror}")
    doctor = os.getpid()
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        die_with(doctor)
        os.write(told, b"1")
        signal.alarm(10)
        signal.pause()
        os._exit(0)
    os.close(told)
    try:
        os.read(ready, 1)  # frozen before that it would outlive us
        write(f"{path}/cgroup.procs", str(pid))
        ended = ended.replace(freeze=_freeze(path))
        write(f"{path}/cgroup.kill", "1")
        fd = os.pidfd_open(pid)
        try:
            gone = select.select([fd], [], [], 3)[0]
        finally:
            os.close(fd)
        return ended if gone else ended.replace(kill="the process lives on")
    except OSError as error:
        return ended.replace(kill=f"{os.path.basename(str(error.filename))}: {error.strerror}")
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        undo("group", path)


def _freeze(path: str) -> str:
    try:
        write(f"{path}/cgroup.freeze", "1")
        end = time.monotonic() + 2
        while "frozen 1" not in read(f"{path}/cgroup.events"):
            if time.monotonic() > end:
                return "cgroup.freeze was written, but nothing froze"
            time.sleep(0.005)
        write(f"{path}/cgroup.freeze", "0")
    except OSError as error:
        return f"cgroup.freeze: {error.strerror}"
    return ""


def judge_kill(ended: Ended | None, problem: str, fix: str, settings: Settings) -> Item:
    """Judge it; None where no cgroup2 group can be made, for the ``problem``."""
    base = Item(
        "kill", "freeze and kill", "ok", "froze a sleeping process by cgroup.freeze, killed it by cgroup.kill", "both worked"
    )
    lost = "--pid host (other containers end with their process 1)"
    if ended is None:
        return base.replace(
            level="warn",
            happened=f"no cgroup2 group can be made: {problem}",
            lost=lost,
            fix=_delegation(fix, settings) if fix else f"sudo pybox run ...   or: {pure_fix(settings)}",
        )
    if not ended.freeze and not ended.kill:
        return base
    happened = "; ".join(word for word in (ended.freeze, ended.kill) if word)
    return base.replace(
        level="warn",
        happened=f"{ended.group}: {happened}",
        lost=lost if ended.kill else "stopping a container for a while without its notice",
        fix="boot Linux 5.14 or later; where it is, look who may write in " + os.path.dirname(ended.group),
    )
