"""Credentials: what a container's processes may do. credentials(7), capabilities(7), seccomp(2)

The default is podman's eleven capabilities, no_new_privs and pybox's own seccomp profile.
"""

from __future__ import annotations

from pybox import native
from pybox.errors import SpecError
from pybox.kernel.inputs import Inputs
from pybox.spec import Spec
from pybox.steps.base import ChildStep
from pybox.steps.rights import (
    DropBounding,
    InstallFilter,
    NoNewPrivileges,
    SetCapabilities,
    SetGid,
    SetGroups,
    SetRlimit,
    SetUid,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)


def number(cap: str) -> int:
    """Return the number of a capability by its name. Raises SpecError for one that the kernel's headers don't know."""
    try:
        return native.number(cap)
    except AttributeError:
        raise SpecError("cap-add", cap, "no such capability", "see capabilities(7)") from None


def names(last: int) -> tuple[str, ...]:
    """Return the names of all capabilities up to a number."""
    found = (native.capability(cap) for cap in range(last + 1))
    return tuple(name for name in found if name.startswith("CAP_"))


def granted(spec: Spec, last: int) -> frozenset[str]:
    """Return the capabilities of a root process in the container: the default, less --cap-drop, plus --cap-add."""
    everything = names(last) if "ALL" in spec.cap_add or "ALL" in spec.cap_drop else ()
    for cap in (*spec.cap_add, *spec.cap_drop):
        if cap != "ALL":
            number(cap)
    kept = frozenset(everything) if "ALL" in spec.cap_add else frozenset(DEFAULT)
    kept = frozenset() if "ALL" in spec.cap_drop else kept - frozenset(spec.cap_drop)
    return kept | (frozenset(spec.cap_add) - {"ALL"})


def steps(given: Inputs) -> Iterator[ChildStep]:
    """Yield the giving up of rights, in the order in which it can be done."""
    spec, facts, account = given.spec, given.facts, given.account
    for limit in spec.rlimits:
        yield SetRlimit(limit.name, limit.soft, limit.hard)
    keep = sum(1 << number(cap) for cap in granted(spec, facts.last_cap))
    if not given.userns and keep & ~facts.capabilities:
        lacking = [cap for cap in sorted(granted(spec, facts.last_cap)) if 1 << number(cap) & ~facts.capabilities]
        if "ALL" not in spec.cap_add:
            raise SpecError("cap-add", ", ".join(lacking), "pybox does not have it itself, so it can't grant it")
        keep &= facts.capabilities
    if given.filter and not spec.no_new_privs:  # then it takes CAP_SYS_ADMIN, which is about to go: seccomp(2)
        yield InstallFilter(given.filter, spec.seccomp or "default")
    yield DropBounding(keep, facts.last_cap)
    if not given.one_id:  # where setgroups is denied, there are no groups but the one
        yield SetGroups(account.groups)
    yield SetGid(account.gid)
    yield SetUid(account.uid)
    # as in docker, only root has capabilities from the start; others get at most what a file grants
    yield SetCapabilities(keep if account.uid == 0 else 0)
    if spec.no_new_privs:
        yield NoNewPrivileges()


def last_steps(given: Inputs) -> Iterator[ChildStep]:
    """Yield the filter, which holds for all calls after it: exec is the only one left."""
    if given.filter and given.spec.no_new_privs:
        yield InstallFilter(given.filter, given.spec.seccomp or "default")
