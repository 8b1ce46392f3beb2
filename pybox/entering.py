"""Entering a container that runs: `pybox exec`. A plan like that of a run, whose namespaces are joined instead of made. setns(2)

The new process gets what the command of the container got, in the same order: control groups, namespaces, working directory,
streams, rights, filter. Until its exec it is a clone of pybox that the container could see in its PID namespace; it is not
dumpable meanwhile, so nothing in there can trace it or look at its files (CVE-2016-9962, CVE-2019-5736).
"""

from __future__ import annotations

import os

from pybox import native, specjson, users
from pybox.errors import SpecError, StateError
from pybox.image.model import Image, ImageConfig
from pybox.kernel import cgroup, command, credentials
from pybox.kernel.inputs import Inputs
from pybox.listing import Entry
from pybox.plan import Plan
from pybox.planner import Ready
from pybox.record import Record
from pybox.runtime import Runtime
from pybox.spec import Spec
from pybox.steps.base import ChildStep, HostStep
from pybox.steps.entering import EnterNamespaces, OpenGroup
from pybox.steps.places import EnterWorkdir, OpenTarget
from pybox.steps.process import CheckLeash, Clone, CloseFds, DieWithParent, JoinGroup, NewSession, SetUmask
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


def prepare(runtime: Runtime, entry: Entry, pid: int, visit: Visit) -> Ready:
    """Plan an exec in the container whose process 1 is ``pid``. Raises SpecError or StateError."""
    asked = entry.journal.get("spec")
    if asked is None:
        raise StateError(f"container {entry.identity} was started by another version of pybox", "start it again to exec in it")
    given = _inputs(runtime, entry, pid, visit, specjson.from_json(asked))
    joined = tuple(kind for kind in _KINDS if _other(pid, kind))
    prepare = tuple(_open_groups(entry, given.spec.system))
    plan = Plan(prepare, tuple(_steps(given, entry, visit, joined)), (), entry.groups)
    return Ready(given, plan, plan.lower(), {})


def _inputs(runtime: Runtime, entry: Entry, pid: int, visit: Visit, spec: Spec) -> Inputs:
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
        init=False,
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
        yield OpenGroup(path, f"cgroup:{controller}" if controller else "cgroup", join=cgroup.JOIN_V1 if controller else "")


def _steps(given: Inputs, entry: Entry, visit: Visit, joined: tuple[str, ...]) -> Iterator[ChildStep]:
    groups = dict(entry.groups)
    yield Clone((), into_cgroup="cgroup" if "" in groups else None)
    for controller, path in groups.items():
        if controller:
            yield JoinGroup(controller, path)
    yield EnterNamespaces(joined)
    yield Clone((), sibling=True)  # the PID namespace is that of the children of who enters it
    if given.mapped_by_root:
        yield SetGid(0, early=True)
        yield SetUid(0, early=True)
    yield NewSession()
    yield OpenTarget(given.spec.workdir or given.image.config.workdir or "/", "at:workdir")
    yield EnterWorkdir("at:workdir", given.spec.workdir or given.image.config.workdir or "/")
    yield from command.streams(visit.tty)
    yield SetUmask(0o022)
    if not visit.detach:
        yield DieWithParent()
        yield CheckLeash()
    yield CloseFds(3)
    yield from credentials.steps(given)
    yield from credentials.last_steps(given)
    yield from command.last_steps(given)


def terminal(pid: int, uid: int) -> tuple[int, int]:
    """Return (master, other end) of a new terminal of the container's own /dev/pts. Raises OSError or StateError.

    By directory fd and through the master, so that no name the container could have changed is believed (CVE-2025-52565).
    """
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        master = native.open_in_root(root, "dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    except OSError as error:
        raise StateError(f"the container has no terminals: {error.strerror}: /dev/pts/ptmx") from None
    finally:
        os.close(root)
    try:
        if os.fstat(master).st_rdev != os.makedev(5, 2):
            raise StateError("the container's /dev/pts/ptmx is not what makes terminals")
        other = native.other_end(master)
        os.fchown(other, uid, -1)
    except BaseException:
        os.close(master)
        raise
    return master, other
