"""Doctor on rights: whether the seccomp filter loads and bites, and which capabilities root lacks here."""

from __future__ import annotations

import ctypes
import errno as errnos
import os

import prctl

from pybox import native
from pybox.doctor.item import Item
from pybox.doctor.session import Host, Settings
from pybox.doctor.trial import Outcome, attempt, call
from pybox.errors import PyboxError
from pybox.host import read
from pybox.kernel import credentials, seccomp
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2  # prctl(2)
_ESSENTIAL = frozenset(credentials.DEFAULT) | {"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_MKNOD"}  # what root's run itself needs
_LOSSES = {
    "CAP_SYS_RESOURCE": "--ulimit above the caller's hard limits, --oom-score-adj below the caller's",
    "CAP_SYS_NICE": "--ulimit nice and rtprio",
}


def filter_(host: Host) -> Item:
    """Load the default profile's program in a child, as a run does, and make a call that it refuses."""
    try:
        code = seccomp.program(f"{host.scratch}/seccomp", None, frozenset(credentials.DEFAULT), host.facts.machine)
    except PyboxError as error:
        return judge_seccomp(Outcome(call=error.message), 0)
    return judge_seccomp(attempt(lambda: _confine(code)), len(code) // 8)


class _Program(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("filter", ctypes.c_char_p))  # struct sock_fprog of seccomp(2)


def _confine(code: bytes) -> Json:
    prctl.set_no_new_privs(1)
    program = _Program(len(code) // 8, code)
    call("prctl(PR_SET_SECCOMP)", "prctl", _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(program))
    mode = read("/proc/self/status").partition("Seccomp:")[2].split()[0]
    try:
        call("unshare", "unshare", native.number("CLONE_NEWNS"))
    except OSError as error:
        return [int(mode), error.errno]
    return [int(mode), 0]


def judge_seccomp(outcome: Outcome, length: int) -> Item:
    """Judge [mode, errno of unshare(2) under the filter]; ``length`` in instructions."""
    base = Item(
        "seccomp",
        "seccomp filter",
        "ok",
        "loaded the default profile in a child, then called unshare",
        f"{length} instructions; unshare was refused",
    )
    if outcome.value == [2, errnos.EPERM]:
        return base
    if outcome.errno == errnos.EINVAL:
        happened, fix = (
            f"{outcome.words()}: this kernel has no seccomp filters",
            "boot a kernel with CONFIG_SECCOMP_FILTER=y (Debian's have it)",
        )
    elif outcome.call.startswith("the trial's process was killed"):
        happened, fix = (
            outcome.words(),
            "an outer filter kills it: start the outer container with --security-opt seccomp=unconfined",
        )
    else:
        happened = (
            outcome.words() if outcome.call else f"loaded, but it does not bite: mode and errno of unshare are {outcome.value}"
        )
        fix = "pybox run --security-opt seccomp=unconfined ...   (runs without it)"
    lost = "every run with the default profile: it is refused rather than run unfiltered"
    return base.replace(level="fail", happened=happened, lost=lost, fix=fix, blocks=("run", "rootless"))


class Capabilities(Record):
    """The names of what root lacks, and which of them the bounding set still has."""

    root: bool
    lacking: tuple[str, ...] = ()
    regainable: tuple[str, ...] = ()
    proof: str = ""


def capabilities(host: Host) -> Item:
    """Look which capabilities root does not have; raise a limit to see it."""
    facts = host.facts
    if not facts.root:
        return judge_capabilities(Capabilities(False), host.settings)
    lacking = tuple(name for name in credentials.names(facts.last_cap) if not facts.capabilities >> credentials.number(name) & 1)
    regainable = tuple(name for name in lacking if prctl.capbset_read(credentials.number(name)))
    proof = attempt(_raise_limit)
    return judge_capabilities(Capabilities(True, lacking, regainable, "" if proof.ok else proof.words()), host.settings)


def _raise_limit() -> Json:
    import resource

    # a hard limit is infinite more often than not, so one is lowered first: only CAP_SYS_RESOURCE takes that back
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 1))
    except ValueError:
        raise OSError(errnos.EPERM, os.strerror(errnos.EPERM), "raise a hard limit") from None
    return True


def judge_capabilities(seen: Capabilities, settings: Settings) -> Item:
    """Judge what root lacks."""
    base = Item(
        "caps",
        "capabilities",
        "n/a",
        "compared CapEff with the kernel's list, and raised a hard limit",
        "a plain user has none, and needs none",
    )
    if not seen.root:
        return base
    if not seen.lacking:
        return base.replace(level="ok", happened="root has all of them")
    words = f"uid 0, but without {', '.join(seen.lacking)}" + (f" ({seen.proof})" if seen.proof else "")
    fatal = sorted(_ESSENTIAL & set(seen.lacking))
    losses = [_LOSSES.get(name, f"--cap-add {name[4:]}") for name in seen.lacking]
    if seen.regainable:
        fix = "start pybox from a root shell that has them: sudo -i"
    elif settings.container:
        fix = "start the outer container with " + " ".join(f"--cap-add {name[4:]}" for name in seen.lacking)
    else:
        fix = "they left the bounding set before this shell began: look at CapabilityBoundingSet= of its service, or at what started it"
    return base.replace(
        level="fail" if fatal else "warn",
        happened=words,
        lost=f"every run as root: it needs {', '.join(fatal)}" if fatal else "; ".join(losses),
        fix=fix,
        blocks=("run",) if fatal else (),
        details=tuple((name, "regainable" if name in seen.regainable else "gone") for name in seen.lacking),
    )
