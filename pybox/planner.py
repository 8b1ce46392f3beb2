"""From a Spec to a plan that is ready to launch: what is read from disk for it, and plans that can be used again.

Two equal runs differ in nothing but the container's id, so a process that runs the same job by the thousand plans it once.
"""

from __future__ import annotations

import os

from pybox import host, native, users
from pybox.dirs import Dirs
from pybox.errors import SpecError
from pybox.host import Facts
from pybox.image import store
from pybox.kernel import credentials, seccomp
from pybox.kernel.inputs import Inputs, TopEntry
from pybox.plan import Plan, make
from pybox.record import Record
from pybox.spec import Mount, Spec
from pybox.specjson import to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json


class Ready(Record):
    """A plan with what it was made from and what it was lowered to: all that two equal runs may differ in is the id."""

    given: Inputs
    plan: Plan
    program: native.Program
    asked: dict[str, Json]  # the Spec as JSON, for the journal


class Planner:
    """Makes plans for one pair of directories on one host."""

    def __init__(self, where: Dirs, facts: Facts) -> None:
        self.dirs = where
        self.facts = facts
        self._plans: dict[tuple[object, ...], Ready] = {}

    def inputs(self, spec: Spec, keep_upper: bool = False, managed: bool = False) -> Inputs:
        """Read from disk what a plan needs. Raises ImageNotFound or SpecError."""
        image = store.find(self.dirs, spec.image)
        if spec.system:
            from pybox.system import settle  # who is no init does not pay for it

            spec = settle(spec, self.facts, image)
        return Inputs(
            spec=spec,
            facts=self.facts,
            image=image,
            dirs=self.dirs,
            account=users.find(image, spec.user or image.config.user),
            sources=tuple(_kind(mount) for mount in spec.mounts),
            filter=self.filter(spec),
            etc_mode=users.etc_mode(image, (self.facts.uid, self.facts.gid)),
            top=tuple(TopEntry(*entry) for entry in host.top_entries()) if image.id == "host" and not self.facts.root else (),
            keep_upper=keep_upper,
            managed=managed,
        )

    def filter(self, spec: Spec) -> bytes:
        """Return the compiled seccomp program of a container; b"" for none. Raises SpecError for a profile that is none."""
        if spec.seccomp == "unconfined":
            return b""
        profile = None if spec.seccomp in ("", "default") else spec.seccomp
        caps = credentials.granted(spec, self.facts.last_cap)
        if spec.system:
            from pybox.system import callable_by

            caps = callable_by(caps)
        return seccomp.program(f"{self.dirs.store}/seccomp", profile, caps, self.facts.machine)

    def ready(self, spec: Spec, keep: bool, managed: bool = False) -> Ready:
        """Return the plan of a run, the one of an equal run before where nothing that it was made from can have changed."""
        tag = store.pointer(self.dirs, spec.image)  # None for the host's root, whose users may change at any time
        if tag is None or spec.seccomp not in ("", "default", "unconfined"):
            return self.plan(spec, keep, managed)
        key = (spec, keep, managed, tag, *map(_kind, spec.mounts))
        ready = self._plans.get(key)
        if ready is None:
            if len(self._plans) >= 64:
                self._plans.clear()
            ready = self._plans[key] = self.plan(spec, keep, managed)
        return ready

    def plan(self, spec: Spec, keep: bool, managed: bool = False) -> Ready:
        """Read, plan and lower. Raises ImageNotFound, SpecError or LimitError."""
        given = self.inputs(spec, keep, managed)
        plan = make(given)
        return Ready(given, plan, plan.lower(), to_json(given.spec))


def _kind(mount: Mount) -> str:
    if mount.source is None:
        return "tmpfs"
    try:
        mode = os.stat(mount.source).st_mode & 0o170000
    except OSError as error:
        raise SpecError("volume", mount.source, f"{error.strerror} on the host", "create it first") from None
    return {0o040000: "directory", 0o020000: "device", 0o060000: "device"}.get(mode, "file")
