"""What a report is made of: everything that is known of one run, collected while it can be seen. Nothing here is HTML.

Of a run that is measured it is collected twice: at the gate, when the container is made and nothing of the image has run, and at
the end, when its cost is known. Of a container that is there already, what its record and the kernel say now; its steps are
planned again from the record, and have no times, for nobody has measured them.
"""

from __future__ import annotations

import os

from pybox import kept, listing, specjson, state, views
from pybox.contrast import Contrast, contrast
from pybox.dirs import Dirs
from pybox.errors import ImageError, PyboxError
from pybox.explain.views import view
from pybox.host import read
from pybox.image import layerfile
from pybox.kernel.usage import account
from pybox.live import RUNNING, Live, held, not_running
from pybox.record import Record
from pybox.runtime import Runtime
from pybox.shown import size
from pybox.steps.hostside import MakeUpper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.explain.analysis import Analysis
    from pybox.explain.stepping import Walk
    from pybox.fastjson import Json
    from pybox.kernel.usage import Account, Groups
    from pybox.plan import Plan
    from pybox.planner import Planned
    from pybox.result import Result
    from pybox.spec import Limits
    from pybox.steps.base import Step

# The files of a group that say what is limited and what is used; "" is the cgroup2 group.
_FILES = {
    "": "memory.max memory.swap.max memory.current memory.peak pids.max pids.current pids.peak cpu.max cpu.weight cpuset.cpus",
    "memory": "memory.limit_in_bytes memory.memsw.limit_in_bytes memory.usage_in_bytes memory.max_usage_in_bytes",
    "pids": "pids.max pids.current",
    "cpu": "cpu.cfs_quota_us cpu.cfs_period_us cpu.shares cpuacct.usage",
    "cpuset": "cpuset.cpus cpuset.mems",
}


_ABOUT = {"mounts": "files", "places": "files", "rights": "rights"}  # by the room of a step


class Layer(Record):
    """One layer of the root file system. ``size`` is in bytes, None when nobody knows it."""

    what: str
    path: str
    digest: str = ""
    size: int | None = None


class Group(Record):
    """One control group, with (file, what the kernel says in it)."""

    controller: str
    path: str
    files: tuple[tuple[str, str], ...]


class Used(Record):
    """One resource: how much was used of how much. ``share`` is the part of the limit, 0 to 1, None without one."""

    what: str
    used: str
    limit: str
    share: float | None = None


class Evidence(Record):
    """All of it. What nobody could see is None or empty, and ``notes`` says why."""

    title: str
    identity: str
    ended: str  # how it is, or how it ended, in words
    facts: tuple[tuple[str, str], ...]  # (what, value), for a table
    env: tuple[tuple[str, str], ...]
    steps: tuple[dict[str, Json], ...]  # as in `explain --format json`, with the numbers of --analyze where it was measured
    failed: int  # the number of the step that failed, 0 none
    contrast: Contrast | None
    layers: tuple[Layer, ...]  # topmost first
    groups: tuple[Group, ...]
    used: tuple[Used, ...]
    effective: tuple[tuple[str, str], ...]
    result: dict[str, Json] | None
    notes: tuple[str, ...]


class Glance:
    """What is seen of a measured run while it is held at the gate."""

    contrast: Contrast | None = None
    groups: tuple[Group, ...] = ()

    def __call__(self, walk: Walk) -> None:
        """Look: the container is complete, and its process stands still."""
        seen = walk.seen
        places = tuple((controller, seen.named(path)) for controller, path in walk.plan.groups)
        self.contrast = contrast(Live(seen.identity, seen.pid, -1, places))
        self.groups = groups(places)


def of_run(dirs: Dirs, ready: Planned, found: Analysis, glance: Glance) -> Evidence:
    """Return what is known of a run that was measured."""
    measured = {step.timed.number: step.to_json(found.begun) for step in found.steps}
    result = None if found.result is None else found.result.to_json()
    spec, notes = ready.given.spec, []
    if glance.contrast is None:
        notes.append("the launch ended before there was a container to look at")
    return Evidence(
        title=_title(spec.image, ready.words),
        identity=found.identity,
        ended=f"failed: {found.error}" if found.error is not None else _ending(found.result),
        facts=_facts(ready),
        env=spec.env,
        steps=tuple({**_step(*entry), **measured.get(entry[0], {})} for entry in ready.plan.steps()),
        failed=found.failed,
        contrast=glance.contrast,
        layers=layers(dirs, found.identity, ready.plan, ready.given.image.layers),
        groups=glance.groups,
        used=used_of_result(result, spec.limits),
        effective=ready.effective if found.result is None else found.result.effective,
        result=result,
        notes=tuple(notes),
    )


def of_container(dirs: Dirs, word: str) -> Evidence:
    """Return what is known of a container that is there. Raises StateError when there is none."""
    from time import time

    one = views.find(dirs, word)
    entry = one.entry
    folder = kept.folder(dirs, entry.identity)
    config = state.parse(read(f"{folder}/config")) or {}
    spec = specjson.from_json(entry.journal.get("spec") or config.get("spec"))
    notes = [f"its steps are planned again from its record, without times: `pybox report -o FILE run {spec.image} ...` measures"]
    seen: Contrast | None = None
    places: tuple[Group, ...] = ()
    used = used_of_result(entry.result, spec.limits)
    if entry.status in RUNNING:
        with held(dirs, entry.identity) as live:
            seen, places, counted = contrast(live), groups(live.groups), account(live.groups)
            if not live.still():
                raise not_running(listing.find(dirs, entry.identity))
        used = used_of_account(counted)
    else:
        notes.append("it does not run: its namespaces and control groups are gone")
    ready: Planned | None = None
    try:
        ready = Runtime(dirs).planner.plan(spec, keep=True, managed=os.path.exists(f"{folder}/log"))
    except PyboxError as error:
        notes[0] = f"its steps can't be planned any more: {error}"
    paths = entry.journal.get("layers")
    below = tuple(map(str, paths)) if isinstance(paths, (list, tuple)) else ()
    return Evidence(
        title=_title(spec.image, spec.args),
        identity=entry.identity,
        ended=one.status(time()),
        facts=_facts(ready, entry.name) if ready else (("image", spec.image),),
        env=spec.env,
        steps=tuple(_step(*each) for each in ready.plan.steps()) if ready else (),
        failed=0,
        contrast=seen,
        layers=layers(dirs, entry.identity, ready.plan if ready else None, below),
        groups=places,
        used=used,
        effective=ready.effective if ready else (),
        result=entry.result,
        notes=tuple(notes),
    )


def _step(number: int, side: str, step: Step) -> dict[str, Json]:
    """Return a step as `explain --format json` shows it, and what it is about."""
    room = type(step).__module__.rpartition(".")[2]
    return {**view(number, side, step), "about": "host" if side == "host" else _ABOUT.get(room, "process")}


def _title(image: str, words: tuple[str, ...]) -> str:
    return f"{image}: {' '.join(words)}" if words else image


def _ending(result: Result | None) -> str:
    if result is None:
        return "not known"
    return result.reason if result.reason not in ("exit", "signal") else f"{result.reason} {result.signal or result.exit_code}"


def _facts(ready: Planned, name: str = "") -> tuple[tuple[str, str], ...]:
    given, spec = ready.given, ready.given.spec
    machine = os.uname()
    mounts = [f"{mount.source or 'tmpfs'} on {mount.target}{' read-only' * mount.read_only}" for mount in spec.mounts]
    rows = (
        ("name", name),
        ("command", " ".join(ready.words)),
        ("image", f"{given.image.name} ({given.image.id[:19]})"),
        ("user", f"{given.account.uid}:{given.account.gid}"),
        ("network", spec.network),
        ("mounts", ", ".join(mounts)),
        ("process 1", "its own init" if spec.system else "pybox-init" if spec.init else "the command"),
        ("host", f"{machine.sysname} {machine.release} {machine.machine}, {'root' if given.facts.root else 'a plain user'}"),
    )
    return tuple(row for row in rows if row[1])


def layers(dirs: Dirs, identity: str, plan: Plan | None, below: tuple[str, ...]) -> tuple[Layer, ...]:
    """Return the layers of a container, the writable one first."""
    own = f"{dirs.uppers}/{identity}"
    on_disk = any(isinstance(step, MakeUpper) for step in plan.prepare) if plan else os.path.isdir(own)
    top = (
        Layer("writable layer, on disk", own, size=views.tree_use(own) if os.path.isdir(own) else None)
        if on_disk
        else Layer("writable layer, in memory", "")
    )
    found = [top]
    for path in below:
        if path == "/":
            found.append(Layer("the machine's own root, read-only", "/"))
            continue
        try:
            layer = layerfile.read(path.removesuffix("/fs"))
            found.append(Layer("layer of the image", path, layer.diff_id, layer.size))
        except ImageError:
            found.append(Layer("layer of the image, gone", path))
    return tuple(found)


def groups(places: Groups) -> tuple[Group, ...]:
    """Return what the kernel says in the files of some control groups; those that are gone say nothing."""
    found = []
    for controller, path in places:
        said = [(name, read(f"{path}/{name}").strip()) for name in _FILES.get(controller, "").split()]
        found.append(Group(controller, path, tuple(pair for pair in said if pair[1])))
    return tuple(found)


def used_of_account(counted: Account) -> tuple[Used, ...]:
    """Return what a running container uses, and of how much."""
    rows = [
        _of("memory", counted.memory, counted.memory_limit, size),
        _of("processes", counted.pids, counted.pids_limit, str),
        _time(counted.cpu, counted.cpus),
        _traffic(counted.read, counted.written),
    ]
    return tuple(row for row in rows if row is not None)


def used_of_result(result: dict[str, Json] | None, limits: Limits) -> tuple[Used, ...]:
    """Return what a container has used until its end, and of how much; without a result, only the limits."""
    said = result or {}
    seconds = [value for name in ("cpu_user", "cpu_system") if isinstance(value := said.get(name), (int, float))]
    rows = [
        _of("memory, at most", _count(said.get("memory_peak")), limits.memory, size),
        _of("processes at once", _count(said.get("pids_peak")), limits.pids, str),
        _time(sum(seconds) if seconds else None, limits.cpus),
        _traffic(_count(said.get("io_read")), _count(said.get("io_written"))),
    ]
    return tuple(row for row in rows if row is not None)


def _of(what: str, used: int | None, limit: int | None, shown: Callable[[int], str]) -> Used | None:
    if used is None and limit is None:
        return None
    share = min(1.0, used / limit) if used is not None and limit else None
    return Used(what, "-" if used is None else shown(used), "" if limit is None else shown(limit), share)


def _time(seconds: float | None, cpus: float | None) -> Used | None:
    if seconds is None and cpus is None:
        return None
    return Used("CPU time", "-" if seconds is None else f"{seconds:.3f} s", "" if cpus is None else f"{cpus:g} CPUs at a time")


def _traffic(read_: int | None, written: int | None) -> Used | None:
    return None if read_ is None else Used("read and written", f"{size(read_)}, {size(written)}", "")


def _count(value: Json) -> int | None:
    return value if isinstance(value, int) else None
