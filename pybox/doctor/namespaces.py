"""Doctor on namespaces: a user namespace with all that is done in one, its id ranges, and proc in a PID namespace."""

from __future__ import annotations

import errno as errnos
import os
from contextlib import contextmanager

from pybox import native
from pybox.doctor.item import Item
from pybox.doctor.kernel import OUTER_SECCOMP, OUTSIDE
from pybox.doctor.session import Host, Settings
from pybox.doctor.trial import NAMESPACES, Outcome, attempt, become, call, enter_user_namespace, mount, unshare
from pybox.errors import PyboxError
from pybox.kernel.namespaces import FIRST_ID, ID_COUNT
from pybox.record import Record
from pybox.steps.base import Desk
from pybox.steps.hostside import MakeUserNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.fastjson import Json


def userns(host: Host) -> Item:
    """Make a user namespace as the caller, and for root also as a plain user, and do in it what a container does."""
    who = host.plain
    plain = Outcome() if who is None else attempt(lambda: _as_plain_user(host, who))
    root = _by_root() if host.facts.root else None
    return judge_userns(plain, root, who[0] if who else None, host.settings)


def _as_plain_user(host: Host, who: tuple[int, int]) -> Json:
    if host.facts.root:
        become(*who)
    enter_user_namespace()
    return _be_its_citizen()


def _by_root() -> Outcome:
    ids = ((0, FIRST_ID, ID_COUNT),)
    try:
        with _made(MakeUserNamespace(ids, ids)) as fd:
            return attempt(lambda: _as_mapped_root(fd))
    except OSError as error:
        return Outcome(call=str(error.filename or "clone3(CLONE_NEWUSER)"), errno=error.errno or errnos.EIO)


def _as_mapped_root(fd: int) -> Json:
    call("setns(CLONE_NEWUSER)", "setns", fd, native.number("CLONE_NEWUSER"))
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    return _be_its_citizen()


def _be_its_citizen() -> Json:
    unshare(*NAMESPACES)
    mount("tmpfs", "/", "tmpfs")
    call("sethostname", "sethostname", b"doctor", 6)
    return True


@contextmanager
def _made(step: MakeUserNamespace) -> Iterator[int]:
    """Yield the fd of a user namespace made as a run makes it. Raises OSError or PyboxError."""
    desk = Desk("", {"program": native.seal("pybox-init", native.init_program())})
    try:
        step.apply(desk)
        yield desk.fds["userns"]
    finally:
        for fd in desk.reuse.values():
            os.close(fd)


def judge_userns(plain: Outcome, root: Outcome | None, uid: int | None, settings: Settings) -> Item:
    """Judge the trial as a plain user (``uid`` None: nobody was tried), and root's, None if the caller is a plain user."""
    outcomes: tuple[tuple[str, Outcome], ...] = () if root is None else (("root", root),)
    outcomes += () if uid is None else ((f"uid {uid}", plain),)
    worked = "; ".join(f"{who}: {'all worked' if outcome.ok else outcome.words()}" for who, outcome in outcomes)
    base = Item("userns", "user namespace", "ok", "unshare, id map, all other namespaces, mount of a tmpfs, sethostname", worked)
    failed = next((outcome for _, outcome in reversed(outcomes) if not outcome.ok), None)
    if failed is None:
        return base
    why, fix = explain(failed, settings)
    lost = "pybox for plain users" if not plain.ok else "`run --userns`"
    if root is None:
        lost = "every run: a plain user's container needs one"
    return base.replace(
        level="fail" if not plain.ok else "warn",
        happened=f"{worked}: {why}" if why else worked,
        lost=lost,
        fix=fix,
        blocks=("rootless",) if root is not None else ("run", "rootless"),
    )


def explain(outcome: Outcome, settings: Settings) -> tuple[str, str]:
    """Return (cause, fix) for what a user namespace was refused with; the cause is "" where no setting explains it."""
    made = not outcome.call.startswith("unshare(CLONE_NEWUSER)")
    if not made and outcome.errno == errnos.ENOSPC:
        if settings.max_userns == "0":
            return "user.max_user_namespaces is 0 (it is not about disk space)", "sudo sysctl -w user.max_user_namespaces=10000"
        return "too many user namespaces, or more than 32 inside one another", "sudo sysctl -w user.max_user_namespaces=100000"
    if not made and outcome.errno in (errnos.EINVAL, errnos.ENOSYS):
        return "this kernel is built without user namespaces", "boot a kernel with CONFIG_USER_NS=y (Debian's have it)"
    if outcome.errno in (errnos.EPERM, errnos.EACCES):
        if settings.userns_clone == "0":
            return "kernel.unprivileged_userns_clone is 0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"
        if settings.apparmor_userns == "1":
            # the profile attaches to an executable's path, and that is the interpreter's: it would let every Python script do it
            why = f"AppArmor lets only programs with a profile use them, and {settings.program} has none"
            return why, "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0   (for all programs; undo with =1)"
        if settings.mapped:
            return "our root is only that of a user namespace", OUTSIDE
        if settings.seccomp == 2:
            return "a seccomp filter from outside refuses it", OUTER_SECCOMP
        if settings.container:
            return f"the {settings.container} container around us refuses it", "start the outer container with --privileged"
        if not made:
            return "a chroot is the usual cause: user namespaces can't be made in one", "run it outside of the chroot"
    return "", "sudo dmesg | tail   (the kernel may have said why)"


class Ranges(Record):
    """What came of the ids that /etc/subuid grants."""

    uid: int
    subuid: tuple[int, int] | None
    subgid: tuple[int, int] | None
    problem: str = ""
    hint: str = ""


def subuid(host: Host) -> Item:
    """Write an id map with the caller's ranges, through newuidmap and newgidmap."""
    facts = host.facts
    if facts.root:
        return judge_subuid(Ranges(0, None, None))
    ranges = Ranges(facts.uid, facts.subuid, facts.subgid)
    if facts.subuid and facts.subgid:
        step = MakeUserNamespace(((0, facts.uid, 1), (1, *facts.subuid)), ((0, facts.gid, 1), (1, *facts.subgid)), helper=True)
        try:
            with _made(step):
                pass
        except FileNotFoundError:
            ranges = ranges.replace(problem="newuidmap is not installed", hint="sudo apt install uidmap")
        except OSError as error:
            ranges = ranges.replace(problem=f"{error.filename}: {error.strerror}")
        except PyboxError as error:
            ranges = ranges.replace(problem=error.message, hint=error.hint or "")
    return judge_subuid(ranges)


def judge_subuid(ranges: Ranges) -> Item:
    """Judge the id ranges."""
    base = Item("subuid", "id ranges", "n/a", "wrote an id map with newuidmap", "root maps ids without help")
    if ranges.uid == 0:
        return base
    if ranges.problem:
        return base.replace(
            level="fail",
            happened=ranges.problem,
            lost="every run: the ranges in /etc/subuid can't be used",
            fix=ranges.hint or f"check the lines of uid {ranges.uid} in /etc/subuid and /etc/subgid: subuid(5)",
            blocks=("run", "rootless"),
        )
    if not (ranges.subuid and ranges.subgid):
        return base.replace(
            level="warn",
            tried="looked in /etc/subuid and /etc/subgid",
            happened=f"none for uid {ranges.uid}: containers have one user, root",
            lost="`--user` and images with files of several owners",
            fix=f"sudo apt install uidmap && sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -nu {ranges.uid})",
        )
    return base.replace(
        level="ok", happened=f"uid 0 is {ranges.uid}, uids from 1 on are {ranges.subuid[0]} (+{ranges.subuid[1]})"
    )


def proc(host: Host) -> Item:
    """Mount fresh proc and sysfs in new PID and network namespaces."""
    return judge_proc(attempt(lambda: _fresh_proc(host)), host.settings)


def _fresh_proc(host: Host) -> Json:
    if not host.facts.root:
        enter_user_namespace()
    unshare("CLONE_NEWNS", "CLONE_NEWPID", "CLONE_NEWNET")
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = "0 "
        try:
            mount("proc", "/proc", "proc", ("MS_NOSUID", "MS_NODEV", "MS_NOEXEC"))
            mount("sysfs", "/sys", "sysfs", ("MS_RDONLY", "MS_NOSUID", "MS_NODEV", "MS_NOEXEC"))
            said += " ".join(name for name in os.listdir("/proc") if name.isdigit())
        except OSError as error:
            said = f"{error.errno} {error.filename}"
        os.write(theirs, said.encode())
        os._exit(0)
    os.close(theirs)
    number, _, rest = os.read(ours, 4096).decode().partition(" ")
    os.waitpid(pid, 0)
    if int(number):
        raise OSError(int(number), os.strerror(int(number)), rest)
    return [*rest.split()]


def judge_proc(outcome: Outcome, settings: Settings) -> Item:
    """Judge the pids that the fresh proc showed: only 1 is right."""
    base = Item(
        "proc", "fresh /proc", "ok", "mounted proc and sysfs in new PID and network namespaces", "it shows process 1 and no other"
    )
    if outcome.value == ["1"]:
        return base
    if outcome.ok:
        happened, fix = (
            f"it shows processes {outcome.value}, not only 1",
            "report it: this kernel does something unknown to pybox",
        )
    elif outcome.errno == errnos.EPERM and outcome.call.startswith("mount"):
        happened = (
            f'{outcome.words()}: parts of the outer /proc or /sys are covered, so no fresh one is allowed ("mount too revealing")'
        )
        fix = (
            "start the outer container with --security-opt unmask=ALL (podman) or --security-opt systempaths=unconfined (docker)"
        )
    else:
        why, fix = explain(outcome, settings)
        happened = f"{outcome.words()}: {why}" if why else outcome.words()
    return base.replace(
        level="fail", happened=happened, lost="every run: each container has its own /proc", fix=fix, blocks=("run", "rootless")
    )
