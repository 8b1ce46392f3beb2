"""What all probes share: the facts, the settings that explain a refusal, and a place of doctor's own while it works.

The place is a container's record like any other (state.py): claimed, locked, and with a journal of all that doctor makes on the
host, written beforehand. So a doctor that is killed is cleaned up after by `pybox gc` or the next run.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from time import time

from pybox import host, state
from pybox.dirs import Dirs, ensure
from pybox.errors import PyboxError
from pybox.host import Facts, read
from pybox.record import Record
from pybox.undo import undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.fastjson import Json

NOBODY = 65534


class Settings(Record):
    """What is read only to explain a refusal; "" or 0 where this kernel does not have it."""

    userns_clone: str = ""  # kernel.unprivileged_userns_clone, Debian's older kernels
    max_userns: str = ""  # user.max_user_namespaces
    apparmor_userns: str = ""  # kernel.apparmor_restrict_unprivileged_userns, Ubuntu from 23.10
    seccomp: int = 0  # of our own process: 2 is a filter from outside
    container: str = ""  # what kind of container we are in
    machine: str = ""  # what kind of virtual machine
    mapped: bool = False  # we are in a user namespace: our root is not the machine's
    systemd: bool = False
    program: str = ""  # of the interpreter, as AppArmor sees it


class Host(Record):
    """The host as the probes see it. ``scratch`` is a directory of doctor's own in the store, "" when none could be made."""

    facts: Facts
    dirs: Dirs
    settings: Settings
    plain: tuple[int, int] | None  # (uid, gid) of the plain user who is tried, None where root can't become one
    identity: str = ""  # of doctor's record; its control groups have this name
    scratch: str = ""
    store_problem: str = ""
    state_problem: str = ""


def settings() -> Settings:
    """Read them."""
    import sys

    seccomp = read("/proc/self/status").partition("Seccomp:")[2].split(None, 1)[:1]
    return Settings(
        userns_clone=read("/proc/sys/kernel/unprivileged_userns_clone").strip(),
        max_userns=read("/proc/sys/user/max_user_namespaces").strip(),
        apparmor_userns=read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").strip(),
        seccomp=int(seccomp[0]) if seccomp else 0,
        container=_container(),
        machine=_machine(),
        mapped=read("/proc/self/uid_map").split() != ["0", "0", "4294967295"],
        systemd=os.path.isdir("/run/systemd/system"),
        program=os.path.realpath(sys.executable),
    )


# The numbers of the namespaces that the machine began with: include/linux/proc_ns.h. Marks like /.dockerenv alone don't tell: a
# virtual machine's disk may have been made from a container image.
_FIRST = (("uts", 0xEFFFFFFE), ("user", 0xEFFFFFFD), ("pid", 0xEFFFFFFC), ("cgroup", 0xEFFFFFFB))


def _container() -> str:
    try:
        if all(os.stat(f"/proc/self/ns/{kind}").st_ino == number for kind, number in _FIRST):
            return ""
    except OSError:
        return ""
    if os.path.exists("/run/.containerenv"):
        return "podman"
    if os.path.exists("/.dockerenv"):
        return "docker"
    named = read("/run/systemd/container").strip() or read("/proc/1/environ").partition("container=")[2].partition("\0")[0]
    return named or "unknown kind"


def _machine() -> str:
    cpu = read("/proc/cpuinfo")
    if "microsoft" in os.uname().release.lower():
        return "WSL"
    if "User Mode Linux" in cpu:
        return "User Mode Linux"
    vendor = read("/sys/class/dmi/id/sys_vendor").strip()
    if " hypervisor" in cpu:
        return f"virtual machine ({vendor})" if vendor else "virtual machine"
    return ""


def plain_user(uid: int, gid: int) -> tuple[int, int] | None:
    """Return whose rights stand for a plain user's: the caller's, or for root those of who called sudo, or nobody's."""
    if uid:
        return uid, gid
    sudo = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    wanted = (int(sudo[0]), int(sudo[1])) if all(word.isdigit() and word != "0" for word in sudo) else (NOBODY, NOBODY)
    there = all(_exists(read(f"/proc/self/{kind}_map"), number) for kind, number in zip(("uid", "gid"), wanted, strict=True))
    return wanted if there else None


def _exists(ranges: str, number: int) -> bool:
    rows = (tuple(int(word) for word in line.split()) for line in ranges.splitlines())
    return any(first <= number < first + count for first, _, count in rows)


@contextmanager
def opened(where: Dirs) -> Iterator[Host]:
    """Open a session: claim a record, journal the control groups and the scratch directory that it may make.

    Where that is impossible the session says why and has no scratch. At the end everything is removed, also the directories of
    the store and the state that were not there before.
    """
    facts = host.probe()
    base = Host(facts, where, settings(), plain_user(facts.uid, facts.gid))
    made = [*_missing(where.state), *_missing(where.store)]
    claim = None
    leaves: list[tuple[str, str]] = []
    try:
        problems = {
            name: _make(path, mode) for name, path, mode in (("state", where.state, 0o700), ("store", where.store, 0o711))
        }
        if any(problems.values()):
            yield base.replace(state_problem=problems["state"], store_problem=problems["store"])
            return
        try:
            claim = state.claim(where)
            scratch = f"{where.store}/doctor-{claim.identity}"
            leaves = [("tree", scratch), *(("group", f"{path}/pybox-{claim.identity}") for path in _parents(facts))]
            os.close(state.open_journal(claim, _journal(leaves)))
            os.mkdir(scratch, 0o700)
        except OSError as error:
            what = "state_problem" if str(error.filename).startswith(where.state) else "store_problem"
            yield base.replace(**{what: f"{error.filename}: {error.strerror}"})
            return
        yield base.replace(identity=claim.identity, scratch=scratch)
    finally:
        for verb, path in leaves:
            undo(verb, path)
        if claim is not None:
            state.release(claim)
        for path in reversed(made):
            try:
                os.rmdir(path)
            except OSError:
                pass  # another pybox has begun to use it, or it could not be made


def _journal(leaves: list[tuple[str, str]]) -> dict[str, Json]:
    return {
        "schema": "pybox.container/1",
        "name": "",
        "image": "",
        "args": ["pybox", "doctor"],
        "created": time(),
        "owner": os.getpid(),
        "leaves": [list(leaf) for leaf in leaves],
    }


def _parents(facts: Facts) -> tuple[str, ...]:
    unified = (facts.cgroups.unified,) if facts.cgroups.unified else ()
    return (*unified, *(path for _, path in facts.cgroups.v1))


def _missing(path: str) -> list[str]:
    found: list[str] = []
    while path and not os.path.lexists(path):
        found.insert(0, path)
        path = os.path.dirname(path)
    return found


def _make(path: str, mode: int) -> str:
    try:
        ensure(path, mode)
    except PyboxError as error:
        return error.message
    except OSError as error:
        return f"{error.filename or path}: {error.strerror}"
    return ""
