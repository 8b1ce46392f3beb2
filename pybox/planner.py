"""From a Spec to a plan that is ready to launch: what is read from disk for it, and plans that can be used again.

Two equal runs differ in nothing but the container's id, so a process that runs the same job by the thousand plans it once.
"""

from __future__ import annotations

import posix as os

from pybox import host, users
from pybox.dirs import Dirs
from pybox.errors import ImageNotFound, SpecError
from pybox.host import Facts
from pybox.image import store
from pybox.kernel import command, credentials, namespaces, seccomp
from pybox.kernel.inputs import Inputs, TopEntry
from pybox.plan import Plan, make
from pybox.ready import Ready
from pybox.spec import Mount, Spec
from pybox.specjson import to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json
    from pybox.network.networks import Network

    Reach = tuple[tuple[Network, ...], str, bool]  # the networks of a container, its resolv.conf, whether the host forwards IPv6


class Planned(Ready):
    """A plan that is ready to launch, with what it was made from."""

    given: Inputs
    plan: Plan

    def planned(self, planner: Planner) -> Planned:
        """Return itself."""
        return self


def ready_of(given: Inputs, plan: Plan, asked: dict[str, Json]) -> Planned:
    """Lower a plan, and collect what a launch needs of its inputs."""
    image = given.image
    return Planned(
        program=plan.lower(),
        prepare=plan.prepare,
        effective=plan.effective,
        groups=plan.groups,
        words=command.words(given),
        image=(image.name, image.id, image.layers),
        owner=_owner(given),
        init=given.spec.init,
        holder=given.userns,
        returns_network=namespaces.returns_network(given),
        asked=asked,
        keep=given.keep_upper,
        managed=given.managed,
        given=given,
        plan=plan,
    )


def _owner(given: Inputs) -> tuple[int, int] | None:
    if not given.facts.root:
        return None
    first = namespaces.FIRST_ID if given.mapped_by_root else 0
    return first + given.account.uid, first + given.account.gid


class Planner:
    """Makes plans for one pair of directories on one host."""

    def __init__(self, where: Dirs, facts: Facts) -> None:
        self.dirs = where
        self.facts = facts
        self._plans: dict[tuple[object, ...], Planned] = {}

    def inputs(
        self,
        spec: Spec,
        keep_upper: bool = False,
        managed: bool = False,
        reach: Reach | None = None,
        disk: bool | None = None,
    ) -> Inputs:
        """Read from disk what a plan needs, unless its ``reach`` has been read already. Raises ImageNotFound or SpecError.

        ``disk``: of a container that has run before, whether its writable layer is a file system of its own.
        """
        image = store.find(self.dirs, spec.image)
        if spec.system:
            from pybox.system import settle  # who is no init does not pay for it

            spec = settle(spec, self.facts, image)
        stacks: tuple[tuple[str, ...], ...] = ()
        if any(mount.image for mount in spec.mounts):
            spec, stacks = self._images(spec)
        networks, resolvers, forwards6 = reach or self._reach(spec)
        given = Inputs(
            networks=networks,
            resolvers=resolvers,
            forwards6=forwards6,
            spec=spec,
            facts=self.facts,
            image=image,
            dirs=self.dirs,
            account=users.find(image, spec.user or image.config.user),
            sources=kinds(spec.mounts),
            stacks=stacks,
            filter=self.filter(spec),
            etc_mode=users.etc_mode(image, (self.facts.uid, self.facts.gid)),
            top=tuple(TopEntry(*entry) for entry in host.top_entries()) if image.id == "host" and not self.facts.root else (),
            keep_upper=keep_upper,
            managed=managed,
        )
        if spec.limits.storage_size is not None and not given.upper_in_memory:
            given = self._limited(given, disk)
        return given

    def _limited(self, given: Inputs, disk: bool | None) -> Inputs:
        """Find out what limits a writable layer on disk: a project quota; else it is made a file system of its own."""
        no_quota = "" if disk else self._no_quota()
        if disk or not no_quota:
            return given.replace(disk=bool(disk))
        if not self.facts.root:
            return given.replace(no_quota=no_quota)
        from pybox.steps.disk import problem

        no_loop = problem() if disk is None else "it was made without a limit; a new container has one"
        return given.replace(no_quota=no_quota, no_loop=no_loop, disk=not no_loop)

    def _no_quota(self) -> str:
        if not self.facts.root:
            return "a plain user can't set quotas"
        from pybox.steps.quota import problem

        return problem(self.dirs.uppers)

    def _images(self, spec: Spec) -> tuple[Spec, tuple[tuple[str, ...], ...]]:
        """Find the images that are shown beside the root. They are named by their ids from here on: a tag may move."""
        mounts, stacks = [], []
        for mount in spec.mounts:
            layers: tuple[str, ...] = ()
            if mount.image:
                try:
                    found = store.find(self.dirs, mount.image)
                except ImageNotFound as error:
                    raise SpecError("mount", mount.image, error.message, f"pybox pull {mount.image}") from None
                mount, layers = mount.replace(image=found.id), found.layers
            mounts.append(mount)
            stacks.append(layers)
        return spec.replace(mounts=tuple(mounts)), tuple(stacks)

    def _reach(self, spec: Spec) -> Reach:
        """Return the networks that a container is to be on, its resolv.conf, and whether the host forwards IPv6."""
        if spec.network in ("none", "host"):
            return (), "", False
        from pybox.kernel.network import forwards6, joined, resolvers  # who has no network does not pay for it

        return joined(self.dirs, spec, self.facts), resolvers(spec.net.dns), forwards6()

    def filter(self, spec: Spec) -> bytes:
        """Return the compiled seccomp program of a container; b"" for none. Raises SpecError for a profile that is none."""
        if spec.seccomp == "unconfined":
            return b""
        profile, caps = self.profile(spec)
        return seccomp.program(f"{self.dirs.store}/seccomp", profile, caps, self.facts.machine)

    def profile(self, spec: Spec) -> tuple[str | None, frozenset[str]]:
        """Return what the filter of a container is made from: the path of a profile, None for our own, and its capabilities."""
        caps = credentials.granted(spec, self.facts.last_cap)
        if spec.system:
            from pybox.system import callable_by

            caps = callable_by(caps)
        return None if spec.seccomp in ("", "default") else spec.seccomp, caps

    def ready(self, spec: Spec, keep: bool, managed: bool = False, disk: bool | None = None) -> Planned:
        """Return the plan of a run, the one of an equal run before where nothing that it was made from can have changed.

        ``disk`` as in `inputs`.
        """
        tag = store.pointer(self.dirs, spec.image)  # None for the host's root, whose users may change at any time
        if tag is None or spec.seccomp not in ("", "default", "unconfined"):
            return self.plan(spec, keep, managed, disk=disk)
        reach = self._reach(spec)
        tags = [store.pointer(self.dirs, mount.image) for mount in spec.mounts if mount.image]
        key = (spec, keep, managed, disk, tag, *tags, reach, *kinds(spec.mounts))
        ready = self._plans.get(key)
        if ready is None:
            if len(self._plans) >= 64:
                self._plans.clear()
            ready = self._plans[key] = self.plan(spec, keep, managed, reach, disk)
        return ready

    def plan(
        self, spec: Spec, keep: bool, managed: bool = False, reach: Reach | None = None, disk: bool | None = None
    ) -> Planned:
        """Read, plan and lower. Raises ImageNotFound, SpecError or LimitError."""
        given = self.inputs(spec, keep, managed, reach, disk)
        return ready_of(given, make(given), to_json(given.spec))


def kinds(mounts: tuple[Mount, ...]) -> tuple[str, ...]:
    """Return what each source is: "directory", "file", "device", "image" or "tmpfs". Raises SpecError for one that is not there."""
    return tuple(map(_kind, mounts))


def _kind(mount: Mount) -> str:
    if mount.source is None:
        return "image" if mount.image else "tmpfs"
    if mount.anonymous:
        return "directory"  # made with the container
    try:
        mode = os.stat(mount.source).st_mode & 0o170000
    except OSError as error:
        raise SpecError("volume", mount.source, f"{error.strerror} on the host", "create it first") from None
    return {0o040000: "directory", 0o020000: "device", 0o060000: "device"}.get(mode, "file")
