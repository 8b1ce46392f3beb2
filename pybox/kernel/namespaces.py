"""Namespaces: which views of the kernel a container owns, and whose it is. namespaces(7)

no user namespace      one clone makes all namespaces, but for that of the network, which was made before
with one               a first clone enters it (setns), a second makes the others as its citizen: what is made before
                       entering would belong to the host's root, and the container's root could not use it
"""

from __future__ import annotations

from pybox.errors import SpecError
from pybox.host import Facts
from pybox.kernel import cgroup, credentials
from pybox.kernel.inputs import Inputs
from pybox.steps import hostside
from pybox.steps.base import ChildStep, HostStep
from pybox.steps.network import EnterNetwork, LoopbackUp, MakeNetwork
from pybox.steps.process import Clone, EnterUserNamespace, NewSession, OwnCgroupView, SetHostname, SetUmask
from pybox.steps.rights import SetGid, SetUid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Map = tuple[tuple[int, int, int], ...]  # (inside, outside, count)

# Outside ids for a container of root's with --userns: far from those of people, of systemd-nspawn and of subuid(5) defaults.
FIRST_ID, ID_COUNT = 2_000_000_000, 65_536


def flags(given: Inputs) -> tuple[str, ...]:
    """Return the namespaces that are the container's own, without the user namespace."""
    spec = given.spec
    wanted = (
        ("CLONE_NEWNS", True),
        ("CLONE_NEWUTS", spec.uts == "private"),
        ("CLONE_NEWIPC", spec.ipc == "private"),
        ("CLONE_NEWPID", spec.pid == "private"),
        ("CLONE_NEWNET", spec.network == "none" and given.userns),  # it must belong to the user namespace
        # with a group of its own the view must wait until it is joined, see OwnCgroupView
        ("CLONE_NEWCGROUP", not cgroup.groups(given)),
    )
    return tuple(flag for flag, own in wanted if own)


def own_maps(facts: Facts, keep_id: bool = False) -> tuple[Map, Map]:
    """Return the uid and gid maps of a plain user's containers: with the ranges of subuid(5), or of the one own id."""
    if keep_id:
        return ((facts.uid, facts.uid, 1),), ((facts.gid, facts.gid, 1),)
    if facts.subuid and facts.subgid:
        return ((0, facts.uid, 1), (1, *facts.subuid)), ((0, facts.gid, 1), (1, *facts.subgid))
    return ((0, facts.uid, 1),), ((0, facts.gid, 1),)


def prepare(given: Inputs) -> Iterator[HostStep]:
    """Yield the network or the user namespace. Raises SpecError when the user asked for can't exist in the latter."""
    if not given.userns:
        if given.spec.takes_spare_network(given.facts.root):
            yield MakeNetwork()
        if wired(given):
            yield from _wiring(given)
        return
    facts, account = given.facts, given.account
    if facts.root:
        whole = ((0, FIRST_ID, ID_COUNT),)
        yield hostside.MakeUserNamespace(whole, whole, network=wired(given))
        if wired(given):
            yield from _wiring(given)
        return
    uids, gids = own_maps(facts, given.spec.keep_id)
    yield hostside.MakeUserNamespace(uids, gids, helper=len(uids) > 1, network=wired(given))
    if wired(given):
        yield from _wiring(given)
    for number, ranges in ((account.uid, uids), (account.gid, gids)):
        if not any(inside <= number < inside + count for inside, _, count in ranges):
            raise SpecError(
                "user",
                given.spec.user or str(number),
                f"id {number} does not exist in a user namespace with {sum(r[2] for r in ranges)} id(s)",
                "run it as root inside (the default), or get a range: usermod --add-subuids 100000-165535 "
                f"--add-subgids 100000-165535 uid-{facts.uid}'s name",
            )


def returns_network(given: Inputs) -> bool:
    """Return whether nothing of a container can be left in its network namespace once its processes are gone.

    It could not change it, and it had no path by which a socket of it could have been passed to somebody who lives on.
    """
    spec, rights = given.spec, credentials.granted(given.spec, given.facts.last_cap)
    bound = any(mount.source is not None for mount in spec.mounts)
    changes = rights & {"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN"}
    return (
        spec.network == "none"
        and spec.takes_spare_network(given.facts.root)
        and spec.pid == "private"
        and not changes
        and not bound
    )


def wired(given: Inputs) -> bool:
    """Return whether it is on a network, which is another matter than none or the host's."""
    return given.spec.network not in ("none", "host")


def _wiring(given: Inputs) -> Iterator[HostStep]:
    from pybox.kernel import network  # who has none does not pay for it

    yield from network.prepare(given)


def birth(given: Inputs, group: str | None) -> Iterator[ChildStep]:
    """Yield the first clone: of everything, or of what a user namespace needs beforehand."""
    if not given.userns:
        yield Clone(flags(given), into_cgroup=group)
    else:
        yield Clone(("CLONE_NEWNS",) if given.facts.root else (), into_cgroup=group)


def citizenship(given: Inputs) -> Iterator[ChildStep]:
    """Yield the second half of the birth, for a container with a user namespace."""
    if not given.userns:
        return
    yield EnterUserNamespace()
    yield Clone(flags(given), sibling=True)
    if given.facts.root:
        # the host's root is nobody in here: files that it made would belong to no one
        yield SetGid(0, early=True)
        yield SetUid(0, early=True)


def steps(given: Inputs) -> Iterator[ChildStep]:
    """Yield what makes the new namespaces usable."""
    spec = given.spec
    if cgroup.groups(given):
        yield OwnCgroupView()
    yield NewSession()
    yield SetUmask(0)
    if spec.uts == "private":
        yield SetHostname(spec.hostname or "CONTAINER-ID", mine=not spec.hostname)
    if spec.network != "host":
        yield LoopbackUp() if given.userns and spec.network == "none" else EnterNetwork()
