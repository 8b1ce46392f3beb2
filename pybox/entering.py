"""Entering a container that runs: `pybox exec`. A plan like that of a run, whose namespaces are joined instead of made. setns(2)

The new process gets what the command of the container got: control groups, namespaces, terminal, working directory, rights,
streams, filter. Two rules are added, because somebody is in there already and may be hostile:

- It is born in the container's PID namespace, where the container can name it, only when it has no more rights than the container,
  and when its memory, which is pybox's until its exec, can't be looked into (CVE-2016-9962, CVE-2019-5736).
- A container with CAP_SYS_PTRACE over the host's processes can look all the same. There the process becomes a sealed pybox-init
  outside of that PID namespace, and only pybox-init's child is born inside: it shares no memory, and its program is the copy.
  So it does for what outlives pybox: somebody has to reap it, or the PID namespace could never end, pid_namespaces(7).
"""

from __future__ import annotations

import posix as os

from pybox import specjson, users
from pybox.errors import SpecError, StateError
from pybox.image.model import Image, ImageConfig
from pybox.kernel import cgroup, command, credentials
from pybox.kernel.inputs import Inputs
from pybox.listing import Entry
from pybox.plan import Plan
from pybox.planner import Planned, ready_of
from pybox.record import Record
from pybox.runtime import Runtime
from pybox.spec import Spec
from pybox.steps.base import ChildStep, HostStep
from pybox.steps.entering import EnterNamespaces, HideMemory, OpenGroup, OpenWorkdir
from pybox.steps.places import EnterWorkdir
from pybox.steps.process import (
    JOIN_V1,
    CheckLeash,
    Clone,
    CloseFds,
    DieWithParent,
    JoinGroup,
    NewSession,
    PlaceFd,
    SetOomScore,
    SetUmask,
)
from pybox.steps.rights import SetGid, SetUid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_KINDS = ("user", "mnt", "pid", "uts", "ipc", "net", "cgroup")


class Visit(Record):
    """What is wanted of an exec. Fields that are empty are the container's own."""

    args: tuple[str, ...]
    user: str = ""
    workdir: str = ""
    env: tuple[tuple[str, str], ...] = ()
    tty: bool = False
    privileged: bool = False  # all capabilities that pybox may give, and no filter
    detach: bool = False  # it may outlive pybox


def prepare(runtime: Runtime, entry: Entry, pid: int, visit: Visit) -> Planned:
    """Plan an exec in the container whose process 1 is ``pid``. Raises SpecError or StateError."""
    asked = entry.journal.get("spec")
    if asked is None:
        raise StateError(f"container {entry.identity} was started by another version of pybox", "start it again to exec in it")
    spec = specjson.from_json(asked)
    joined = tuple(kind for kind in _KINDS if _other(pid, kind))
    watched = "user" not in joined and "CAP_SYS_PTRACE" in credentials.granted(spec, runtime.facts.last_cap)
    sealed = "pid" in joined and (watched or visit.detach)
    given = _inputs(runtime, entry, pid, visit, spec, sealed)
    return ready(given, entry, visit, joined, sealed)


def ready(given: Inputs, entry: Entry, visit: Visit, joined: tuple[str, ...], sealed: bool) -> Planned:
    """Plan it, from what was found out. ``joined``: the kinds of namespaces that are not the host's; touches nothing."""
    prepare = tuple(_open_groups(entry, given.spec.system))
    plan = Plan(prepare, tuple(_steps(given, entry, visit, joined, sealed)), (), entry.groups)
    return ready_of(given, plan, {})


def _inputs(runtime: Runtime, entry: Entry, pid: int, visit: Visit, spec: Spec, sealed: bool) -> Inputs:
    if not visit.args or not visit.args[0]:
        raise SpecError("exec", "", "no command given", "pybox exec CONTAINER COMMAND [ARG...]")
    config = _config(runtime, entry)
    # whoever was added to /etc/passwd since the image was made counts too: it is read below the container's root, as data
    live = Image(spec.image, str(entry.journal.get("image_id", "")), (f"/proc/{pid}/root",), config)
    spec = spec.replace(
        args=visit.args,
        entrypoint=(),
        env=(*spec.env, *visit.env),
        user=visit.user or spec.user,
        workdir=visit.workdir or spec.workdir,
        tty=visit.tty,
        init=sealed,
        cap_add=("ALL",) if visit.privileged else spec.cap_add,
        cap_drop=() if visit.privileged else spec.cap_drop,
        seccomp="unconfined" if visit.privileged else spec.seccomp,
        no_new_privs=spec.no_new_privs and not visit.privileged,
    )
    return Inputs(
        spec=spec,
        facts=runtime.facts,
        image=live,
        dirs=runtime.dirs,
        account=users.find(live, spec.user or config.user),
        filter=runtime.planner.filter(spec),
    )


def _config(runtime: Runtime, entry: Entry) -> ImageConfig:
    from pybox.image import store

    return store.find(runtime.dirs, str(entry.journal.get("image_id", ""))).config


def _other(pid: int, kind: str) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    except OSError:
        return False


def _open_groups(entry: Entry, system: bool) -> Iterator[HostStep]:
    for controller, path in entry.groups:
        if system and not controller:  # a group of our own: its init may have made its own one inner, and nobody can join that
            yield OpenGroup(f"{path}/{cgroup.INNER}/pybox-exec", "cgroup", make=True)
            continue
        yield OpenGroup(path, f"cgroup:{controller}" if controller else "cgroup", join=JOIN_V1 if controller else "")


def _steps(given: Inputs, entry: Entry, visit: Visit, joined: tuple[str, ...], sealed: bool) -> Iterator[ChildStep]:
    groups = dict(entry.groups)
    workdir = given.spec.workdir or given.image.config.workdir or "/"
    yield Clone((), into_cgroup="cgroup" if "" in groups else None)
    for controller, path in groups.items():
        if controller:
            yield JoinGroup(controller, path)
    if given.spec.limits.oom_score_adj is not None:
        yield SetOomScore(given.spec.limits.oom_score_adj)  # by the host's /proc
    yield EnterNamespaces(joined)
    if given.mapped_by_root:
        yield SetGid(0, early=True)
        yield SetUid(0, early=True)
    if visit.tty:
        from pybox.steps.terminal import OpenTerminal

        yield OpenTerminal(given.account.uid)
    yield OpenWorkdir(workdir, "at:workdir")
    yield EnterWorkdir("at:workdir", workdir)
    yield from credentials.steps(given)
    if not sealed:
        yield HideMemory()
        yield Clone((), sibling=True)  # the PID namespace is that of the children of who enters it
    yield NewSession()
    yield from command.streams(visit.tty, control=not sealed)
    yield SetUmask(given.spec.umask)
    if not visit.detach:
        yield DieWithParent()
        yield CheckLeash()
    if sealed:
        yield PlaceFd("leash", 3)
        yield PlaceFd("program", 4, until_exec=True)
    yield CloseFds(5 if sealed else 3)
    yield from credentials.last_steps(given)
    yield from command.last_steps(given, how="vd" if visit.detach else "v")
