"""Doctor on system containers: which init can be process 1 here, tried by doing what an init does with its control group."""

from __future__ import annotations

import os

from pybox import native
from pybox.doctor.groups import pure_fix
from pybox.doctor.item import Item
from pybox.doctor.session import Host, Settings
from pybox.doctor.trial import Outcome, attempt, mount, unshare, write
from pybox.errors import PyboxError
from pybox.host import Cgroups, read
from pybox.image.model import Image
from pybox.kernel import cgroup, namespaces
from pybox.kernel.inputs import Inputs
from pybox.spec import Spec
from pybox.steps.base import Desk
from pybox.undo import undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

_OTHERS = "busybox init, runsvdir, s6-svscan"


def system(host: Host) -> Item:
    """Hand a group to the root of a user namespace, who mounts it and sorts a process into a group of its own."""
    groups = host.facts.cgroups
    if groups.unified is None:
        return judge_system(None, groups, host.facts.root, host.settings)
    return judge_system(_try(host), groups, host.facts.root, host.settings)


def _try(host: Host) -> Outcome:
    given = Inputs(Spec("host", system=True, userns=True), host.facts, Image("host", "host", ("/",)), host.dirs)
    desk = Desk(host.identity, {"program": native.seal("pybox-init", native.init_program())})
    leaves: list[tuple[str, str]] = []
    try:
        for step in (*cgroup.prepare(given), *namespaces.prepare(given)):
            leaves += step.leaves()
            step.apply(desk)
        ((_, whole),) = [pair for pair in cgroup.groups(given) if pair[0] == ""]
        inner = f"{desk.named(whole)}/{cgroup.INNER}"
        return attempt(lambda: _as_an_init(inner, desk.fds["userns"]))
    except PyboxError as error:
        return Outcome(call=error.message)
    except OSError as error:
        return Outcome(call=str(error.filename or "a system call"), errno=error.errno or 0)
    finally:
        for fd in {*desk.fds.values(), *desk.reuse.values()}:
            os.close(fd)
        for verb, path in reversed(leaves):
            undo(verb, desk.named(path))


def _as_an_init(inner: str, userns: int) -> Json:
    write(f"{inner}/cgroup.procs", "0")
    native.enter_user_namespace(userns)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    unshare("CLONE_NEWNS", "CLONE_NEWCGROUP")
    top = "/sys/fs/cgroup"
    mount("cgroup2", top, "cgroup2")
    os.mkdir(f"{top}/service")
    write(f"{top}/service/cgroup.procs", "0")
    here = [line for line in read("/proc/self/cgroup").splitlines() if line.startswith("0::")]
    return [*here, read(f"{top}/cgroup.controllers").strip()]


def judge_system(outcome: Outcome | None, groups: Cgroups, root: bool, settings: Settings) -> Item:
    """Judge [the line of /proc/self/cgroup, the controllers]; None where no cgroup2 group can be made."""
    base = Item(
        "system",
        "system containers",
        "ok",
        "gave a control group to the root of a user namespace, who mounted it and made one in it for a process",
        "",
    )
    if outcome is None:
        fix = groups.fix.removeprefix("run it through: ") if groups.fix and settings.systemd else ""
        return base.replace(
            level="warn",
            happened=f"{_OTHERS} ✓  systemd ✗: no cgroup2 group can be made: {groups.problem}",
            lost="systemd as process 1 (--system)",
            fix=fix or "sudo pybox run ..." if not root else pure_fix(settings),
        )
    value = outcome.value
    if isinstance(value, list) and value[:1] == ["0::/service"]:
        controllers = str(value[1])
        what = f"it can limit its services: {controllers}" if groups.pure else "it can't limit its services, see the item cgroup"
        return base.replace(happened=f"{_OTHERS} ✓  systemd ✓, {what}")
    happened = outcome.words() if outcome.call else f"the process is in {value}"
    return base.replace(
        level="warn",
        happened=f"systemd ✗: {happened}",
        lost="systemd as process 1 (--system); the item userns says whether any init can be",
        fix="pybox doctor userns   (mend what it says; if nothing, report this line and `uname -a`)",
    )
