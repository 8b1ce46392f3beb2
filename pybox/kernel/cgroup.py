"""Control groups: what a container may use together, and what it did use. cgroups(7)

On a cgroup v2 host one group has all limits and the child is born in it. On a hybrid host (v1 controllers beside a cgroup2
tree) there is one group for each v1 controller that is needed, below the caller's own, joined by the child's first writes.
A limit that can't be enforced is refused: a job whose limit is silently ignored is the worst outcome.
"""

from __future__ import annotations

from pybox.errors import LimitError
from pybox.host import Facts
from pybox.kernel.inputs import Inputs
from pybox.spec import Limits
from pybox.steps import hostside
from pybox.steps.base import ChildStep, HostStep
from pybox.steps.process import JOIN_V1, JoinGroup, SetOomScore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

GROUP = "pybox-CONTAINER-ID"
INNER = "container"  # below it: the part of the tree that is a system container's own
COUNTED = ("memory", "pids", "cpu")  # what a container that is looked after has counted, limited or not
PERIOD = 100_000  # microseconds, the kernel's default window for --cpus


def needed(limits: Limits) -> tuple[tuple[str, str], ...]:
    """Return (controller, option) for each limit that needs a control group."""
    wanted = (
        ("memory", "--memory", limits.memory),
        ("pids", "--pids-limit", limits.pids),
        ("cpu", "--cpus", limits.cpus),
        ("cpu", "--cpu-shares", limits.cpu_shares),
        ("cpuset", "--cpuset-cpus", limits.cpuset_cpus),
    )
    return tuple((controller, option) for controller, option, value in wanted if value is not None)


def effective(given: Inputs) -> tuple[tuple[str, str], ...]:
    """Return (option, how) for each limit asked for: ``cgroup v2``, ``cgroup v1`` or ``none: reason``.

    Raises LimitError for one that can't be enforced, unless the spec says --best-effort.
    """
    found = []
    groups = given.facts.cgroups
    for controller, option in needed(given.spec.limits):
        if controller in groups.controllers and not groups.v1:
            found.append((option, "cgroup v2"))
        elif controller in dict(groups.v1):
            found.append((option, "cgroup v1"))
        else:
            reason = groups.problem or f"the controller {controller} is not available below {groups.unified}"
            if not given.spec.best_effort:
                fix = groups.fix or "`pybox doctor` says what this host can limit"
                raise LimitError(f"cannot enforce {option}: {reason}", f"{fix}; --best-effort runs without the limit")
            found.append((option, f"none: {reason}"))
    return tuple(found)


def delegated(given: Inputs) -> bool:
    """Whether the container gets a part of the cgroup2 tree as its own: an init sorts its services into groups there."""
    return given.spec.system and given.facts.cgroups.unified is not None


def _held(given: Inputs) -> frozenset[str]:
    """Return the options that a group will enforce."""
    return frozenset(option for option, how in effective(given) if not how.startswith("none"))


def _controllers(given: Inputs) -> tuple[str, ...]:
    held = _held(given)
    return tuple(dict.fromkeys(controller for controller, option in needed(given.spec.limits) if option in held))


def groups(given: Inputs) -> tuple[tuple[str, str], ...]:
    """Return (controller, directory) of the groups a run has; the controller of the cgroup2 one is "". The id's token in it."""
    facts = given.facts
    controllers = _controllers(given)
    found = []
    # without a PID namespace of its own, only a cgroup2 group can end all of a container's processes at once
    usable = facts.cgroups.unified is not None
    wanted = given.managed or given.spec.system
    if (controllers and facts.cgroups.pure) or given.spec.pid == "host" or (wanted and usable):
        if facts.cgroups.unified is None:
            raise LimitError(f"--pid host needs a cgroup2 group: {facts.cgroups.problem}", facts.cgroups.fix or None)
        found.append(("", f"{facts.cgroups.unified}/{GROUP}"))
    if not facts.cgroups.pure:
        v1 = dict(facts.cgroups.v1)
        counted = [name for name in COUNTED if given.managed and name in v1 and name not in controllers]
        found += [(controller, f"{v1[controller]}/{GROUP}") for controller in (*controllers, *counted)]
    return tuple(found)


def prepare(given: Inputs) -> Iterator[HostStep]:
    """Yield the groups and the limits in them."""
    facts, limits, best_effort = given.facts, given.spec.limits, given.spec.best_effort
    held = _held(given)
    for controller, path in groups(given):
        if controller == "":
            if facts.cgroups.pure and held and facts.cgroups.unified:
                yield hostside.EnableControllers(facts.cgroups.unified, _controllers(given), step_aside=not facts.root)
            counted = tuple(name for name in (*COUNTED, "io") if name in facts.cgroups.controllers and facts.cgroups.pure)
            if given.managed and counted and facts.cgroups.unified:
                yield hostside.EnableControllers(facts.cgroups.unified, counted, step_aside=not facts.root, optional=True)
            yield hostside.MakeGroup(path, "cgroup:all" if delegated(given) else "cgroup", killer=given.spec.pid == "host")
        else:
            yield hostside.MakeGroup(path, f"cgroup:{controller}", join=JOIN_V1)
        # the cgroup2 group of a hybrid host has no controllers: it is there to end and to freeze
        limited = controller != "" or facts.cgroups.pure
        for name, value, option, optional in values(controller, limits, facts):
            if limited and option.removesuffix("-swap") in held:
                yield hostside.SetLimit(f"{path}/{name}", value, option, optional, best_effort)
        if controller == "" and delegated(given):
            from pybox.kernel.namespaces import FIRST_ID
            from pybox.steps.delegation import DelegateGroup

            yield DelegateGroup(path, f"{path}/{INNER}", FIRST_ID if given.mapped_by_root else None)


def values(controller: str, limits: Limits, facts: Facts) -> Iterator[tuple[str, str, str, bool]]:
    """Yield (file, value, option, optional) for one group; "" means all controllers, in cgroup v2 words."""
    v2 = controller == ""
    swap = limits.memory_swap
    if limits.memory is not None and (v2 or controller == "memory"):
        yield "memory.max" if v2 else "memory.limit_in_bytes", str(limits.memory), "--memory", False
        # docker's rule: as much swap again as memory, when nothing is said; on a host without swap there is nothing to say
        total = 2 * limits.memory if swap is None else swap
        if v2 and (swap is not None or facts.cgroups.swap):
            yield "memory.swap.max", "max" if total == -1 else str(total - limits.memory), "--memory-swap", not facts.cgroups.swap
        elif swap is not None or facts.cgroups.swap:
            yield "memory.memsw.limit_in_bytes", str(total), "--memory-swap", not facts.cgroups.swap
    if limits.pids is not None and (v2 or controller == "pids"):
        yield "pids.max", str(limits.pids), "--pids-limit", False
    if limits.cpus is not None and (v2 or controller == "cpu"):
        quota = str(max(1000, round(limits.cpus * PERIOD)))  # the kernel's least is 1 ms
        if v2:
            yield "cpu.max", f"{quota} {PERIOD}", "--cpus", False
        else:
            yield "cpu.cfs_period_us", str(PERIOD), "--cpus", False
            yield "cpu.cfs_quota_us", quota, "--cpus", False
    if limits.cpu_shares is not None and (v2 or controller == "cpu"):
        weight = 1 + ((limits.cpu_shares - 2) * 9999) // 262142  # the conversion that runc and crun document
        yield "cpu.weight" if v2 else "cpu.shares", str(weight if v2 else limits.cpu_shares), "--cpu-shares", False
    if limits.cpuset_cpus is not None and (v2 or controller == "cpuset"):
        if not v2:
            # a v1 cpuset takes no process until it has memory nodes too
            yield "cpuset.mems", facts.cgroups.nodes, "--cpuset-cpus", False
        yield "cpuset.cpus", limits.cpuset_cpus, "--cpuset-cpus", False


def steps(given: Inputs) -> Iterator[ChildStep]:
    """Yield the joining of v1 groups, and the child's weight for the out-of-memory killer."""
    for controller, path in groups(given):
        if controller:
            yield JoinGroup(controller, path)
    if given.spec.limits.oom_score_adj is not None:
        yield SetOomScore(given.spec.limits.oom_score_adj)
