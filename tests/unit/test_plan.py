"""A plan is a pure function of its inputs, and the order of its steps is what keeps a container in."""

from __future__ import annotations

import builtins
import os
import posix

import pytest

from pybox import native
from pybox.dirs import Dirs
from pybox.explain.why import step_kinds
from pybox.host import Cgroups, Facts
from pybox.image.model import Image, ImageConfig
from pybox.kernel.inputs import Account, Inputs, TopEntry
from pybox.network.networks import Network
from pybox.plan import Plan, make
from pybox.spec import Limits, Mount, Net, Rlimit, Spec
from pybox.steps import entering, mounts
from pybox.steps.base import ChildStep, HostStep, Step
from pybox.steps.claim import ClaimState
from pybox.steps.hostside import MakeUserNamespace
from pybox.steps.mounts import (
    DetachOldRoot,
    MakeReadOnly,
    MountKernelFs,
    MountOverlay,
    OpenSource,
    PivotRoot,
    PlaceMount,
    PrivateMounts,
)
from pybox.steps.network import EnterNetwork, LoopbackUp, MakeNetwork
from pybox.steps.places import OpenTarget, RealDirectory
from pybox.steps.process import (
    BecomeInit,
    CheckLeash,
    Clone,
    CloseFds,
    DieWithParent,
    EnterUserNamespace,
    Exec,
    JoinGroup,
    OwnCgroupView,
    PlaceFd,
    SetHostname,
)
from pybox.steps.rights import DropBounding, InstallFilter, NoNewPrivileges, SetCapabilities, SetGid, SetGroups, SetRlimit, SetUid
from pybox.steps.wiring import JoinNetwork

V2 = Cgroups(unified="/cg", controllers=frozenset({"memory", "pids", "cpu", "cpuset"}))
HYBRID = Cgroups(unified="/cg/unified", v1=tuple((name, f"/cg/{name}") for name in ("memory", "pids", "cpu")), problem="hybrid")
ROOT = Facts(
    uid=0,
    root=True,
    gid=0,
    machine="x86_64",
    release="6.6.0",
    last_cap=40,
    cgroups=V2,
    masked=(("/proc/acpi", True), ("/proc/kcore", False), ("/sys/firmware", True)),
    read_only=("/proc/sys", "/proc/bus"),
    cpus=2,
    capabilities=(1 << 41) - 1,
)
USER = ROOT.replace(uid=1000, root=False, gid=1000, capabilities=0)
MAPPED = USER.replace(subuid=(100000, 65536), subgid=(100000, 65536))
IMAGE = Image("busybox", "sha256:0", ("/s/layers/a", "/s/layers/b"), ImageConfig(env=("A=image",), cmd=("sh",)))
TOP = (TopEntry("bin", "usr/bin"), TopEntry("usr"), TopEntry("home", mounts_below=True))
PLAIN = Spec(image="busybox", args=("ls", "-l"))
VOLUMES = (Mount("/d/e", source="/h/data", read_only=True), Mount("/d", source="/h/file"), Mount("/t", size=1 << 20))
KINDS = ("directory", "file", "tmpfs")
NETWORKS = (
    Network("a", "pb-a-0", "10.9.0.0/24", "fd00:9::/64", internal=True),
    Network("b", "pb-b-0", "10.8.0.0/24", "fd00:8::/64"),
)
NET = Net(ip=("10.9.0.7",), ports=("8080:80",), hosts=("db:192.0.2.9",), allow=("192.0.2.1:443",), rate=10**7)


def inputs(spec: Spec = PLAIN, facts: Facts = ROOT, **fields: object) -> Inputs:
    """Return what a run is planned from; the default filter is one instruction."""
    sources = KINDS if spec.mounts == VOLUMES else ()
    whole = {"image": IMAGE, "dirs": Dirs("/s", "/r"), "sources": sources, "filter": bytes(8), **fields}
    return Inputs(spec=spec, facts=facts, **whole)  # type: ignore[arg-type]


EVERYTHING = PLAIN.replace(
    limits=Limits(memory=64 << 20, pids=5, cpus=0.5, oom_score_adj=5),
    rlimits=(Rlimit("nofile", 5, -1),),
    mounts=VOLUMES,
    hostname="box",
    workdir="/src",
    cap_add=("CAP_NET_RAW",),
    env=(("B", "user"),),
)
VARIANTS: dict[str, Inputs] = {
    "plain": inputs(),
    "etc in the upper": inputs(etc_mode=0o755),
    "everything": inputs(EVERYTHING),
    "everything, hybrid": inputs(EVERYTHING, ROOT.replace(cgroups=HYBRID)),
    "volumes": inputs(PLAIN.replace(mounts=VOLUMES)),
    "userns": inputs(PLAIN.replace(userns=True, mounts=VOLUMES)),
    "userns, limits": inputs(PLAIN.replace(userns=True, limits=Limits(pids=5)), account=Account(5, 5, (5, 6))),
    "plain user": inputs(facts=USER, etc_mode=0o755),
    "plain user, volumes": inputs(PLAIN.replace(mounts=VOLUMES), USER),
    "plain user, mapped ids": inputs(facts=MAPPED, account=Account(5, 6, (7,))),
    "plain user, host's root": inputs(PLAIN.replace(image="host"), USER, image=Image("host", "host", ("/",)), top=TOP),
    "plain user, old kernel": inputs(facts=USER.replace(tmpfs_user_xattr=False)),
    "network host": inputs(PLAIN.replace(network="host")),
    "network host, plain user": inputs(PLAIN.replace(network="host"), USER),
    "pid, ipc, uts host": inputs(PLAIN.replace(pid="host", ipc="host", uts="host")),
    "on networks": inputs(PLAIN.replace(network="a,b", net=NET), networks=NETWORKS, forwards6=True),
    "on a network, user namespace": inputs(PLAIN.replace(network="a", userns=True), networks=NETWORKS[:1]),
    "on a network, plain user": inputs(PLAIN.replace(network="pybox", net=Net(ports=("8080:80",))), USER),
    "all of the host's, plain user": inputs(PLAIN.replace(pid="host", ipc="host", uts="host", network="host"), USER),
    "read only": inputs(PLAIN.replace(read_only=True)),
    "kept": inputs(keep_upper=True),
    "upper on disk": inputs(PLAIN.replace(upper="disk")),
    "no init": inputs(PLAIN.replace(init=False)),
    "terminal": inputs(PLAIN.replace(tty=True)),
    "terminal, no init": inputs(PLAIN.replace(tty=True, init=False)),
    "looked after": inputs(keep_upper=True, managed=True),
    "looked after, hybrid": inputs(facts=ROOT.replace(cgroups=HYBRID), keep_upper=True, managed=True),
    "unconfined": inputs(PLAIN.replace(seccomp="unconfined", no_new_privs=False, cap_add=("ALL",)), filter=b""),
    "another user": inputs(PLAIN.replace(user="5:6"), account=Account(5, 6, ())),
    "a writable layer with a limit": inputs(PLAIN.replace(upper="disk", limits=Limits(storage_size=1 << 20))),
    "a writable layer that is a disk": inputs(PLAIN.replace(limits=Limits(storage_size=1 << 20)), keep_upper=True, disk=True),
    "a disk, userns": inputs(PLAIN.replace(userns=True, limits=Limits(storage_size=1 << 20)), disk=True),
    "images beside the root": inputs(
        PLAIN.replace(mounts=(Mount("/i", image="a", read_only=True), Mount("/j", image="b"))),
        sources=("image", "image"),
        stacks=(IMAGE.layers, IMAGE.layers[:1]),
    ),
    "in another's network": inputs(PLAIN.replace(network="container:0123456789ab")),
    "an init of its own": inputs(PLAIN.replace(system=True, userns=True), managed=True, keep_upper=True),
    "nothing masked": inputs(facts=ROOT.replace(masked=(), read_only=())),
}


@pytest.fixture(params=VARIANTS)
def given(request: pytest.FixtureRequest) -> Inputs:
    return VARIANTS[request.param]


def at(plan: Plan, *kinds: type) -> list[int]:
    """Return the indices of the inside steps of some kinds."""
    return [index for index, step in enumerate(plan.inside) if isinstance(step, kinds)]


def one(plan: Plan, kind: type) -> int:
    """Return the index of the only step of a kind."""
    (index,) = at(plan, kind)
    return index


def test_the_same_inputs_give_the_same_plan_and_nothing_is_touched(given: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"a plan touches the host: {args}")

    first = make(given)  # imports what it needs
    with monkeypatch.context() as patched:
        for name in (
            "open",
            "stat",
            "lstat",
            "listdir",
            "scandir",
            "mkdir",
            "readlink",
            "access",
            "write",
            "getpid",
            "geteuid",
            "urandom",
        ):
            patched.setattr(os, name, touched)
            patched.setattr(posix, name, touched)
        patched.setattr(builtins, "open", touched)
        patched.setattr(native, "lib", _Constants(native.lib))
        second = make(given)
        program = second.lower()
    assert first == second and hash(first) == hash(second) and program == first.lower()


class _Constants:
    """The C library without its functions."""

    def __init__(self, lib: object) -> None:
        self._lib = lib

    def __getattr__(self, name: str) -> int:
        value = getattr(self._lib, name)
        assert isinstance(value, int), f"a plan calls {name}"
        return value

    def __dir__(self) -> list[str]:
        return dir(self._lib)


def test_a_v1_cpuset_is_planned_without_touching_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    from pybox import host

    groups = HYBRID.replace(v1=(("cpuset", "/cg/cpuset"),))
    read: list[str] = []
    monkeypatch.setattr(host, "read", lambda path, default="": read.append(path) or default)
    make(inputs(PLAIN.replace(limits=Limits(cpuset_cpus="0")), ROOT.replace(cgroups=groups)))
    assert read == []


def test_it_begins_with_the_claim_and_the_clone_and_ends_with_exec(given: Inputs) -> None:
    plan = make(given)
    assert plan.prepare[0] == ClaimState("/r/CONTAINER-ID")
    assert isinstance(plan.inside[0], Clone) and not plan.inside[0].sibling
    assert isinstance(plan.inside[-1], Exec) and len(at(plan, Exec)) == 1
    assert at(plan, BecomeInit) == ([len(plan.inside) - 2] if given.spec.init else [])


def test_mounts_are_private_before_anything_is_mounted(given: Inputs) -> None:
    plan = make(given)
    assert one(plan, PrivateMounts) < min(at(plan, MountKernelFs, MountOverlay, OpenSource, PlaceMount, MakeReadOnly))


def test_sources_are_held_before_the_root_changes(given: Inputs) -> None:
    plan = make(given)
    pivot = one(plan, PivotRoot)
    assert all(index < pivot for index in at(plan, OpenSource)) and all(index < pivot for index in at(plan, MountOverlay))
    held = [step.path for step in plan.inside if isinstance(step, OpenSource)]
    assert {mount.source for mount in given.spec.mounts if mount.source} <= set(held)


def test_the_host_is_let_go_before_anything_of_the_image_is_walked(given: Inputs) -> None:
    plan = make(given)
    detached = one(plan, DetachOldRoot)
    assert one(plan, PivotRoot) < detached
    early = [step.path for step in plan.inside[:detached] if isinstance(step, OpenTarget)]
    # before that only mount points that were insisted on, or that are in file systems of our own
    assert all(path in ("/proc", "/sys", ".") or path.startswith(("/dev/", "mnt/")) for path in early)
    late = {step.path for step in plan.inside[detached:] if isinstance(step, OpenTarget)}
    assert {mount.target for mount in given.spec.mounts} <= late


def test_the_kernels_file_systems_go_on_real_directories(given: Inputs) -> None:
    plan = make(given)
    for path in ("/proc", "/sys", "/dev"):
        insisted = plan.inside.index(RealDirectory(path))
        used = [
            index
            for index, step in enumerate(plan.inside)
            if (isinstance(step, MountKernelFs) and step.target == path) or (isinstance(step, OpenTarget) and step.path == path)
        ]
        assert one(plan, PivotRoot) < insisted < used[0]


def test_a_mount_is_held_and_restricted_before_it_is_placed(given: Inputs) -> None:
    plan = make(given)
    opened: dict[str, int] = {}
    for index, step in enumerate(plan.inside):
        if isinstance(step, (OpenSource, OpenTarget)):
            opened[step.slot] = index
        elif isinstance(step, mounts.SetMountFlags):
            assert step.slot in opened
        elif isinstance(step, PlaceMount):
            assert opened[step.source] < index and opened[step.onto] < index
            later = [other for other in plan.inside[index:] if isinstance(other, mounts.SetMountFlags)]
            assert all(other.slot != step.source for other in later)


def test_outer_volumes_are_placed_before_those_inside_them() -> None:
    placed = [step.path for step in make(VARIANTS["volumes"]).inside if isinstance(step, PlaceMount)]
    assert [path for path in placed if path in ("/d", "/d/e")] == ["/d", "/d/e"]


def test_a_volume_gets_no_set_user_id_programs_and_no_devices() -> None:
    steps = make(VARIANTS["volumes"]).inside
    flags = {step.slot: set(step.flags) for step in steps if isinstance(step, mounts.SetMountFlags)}
    assert flags == {
        "volume0": {"MOUNT_ATTR_RDONLY", "MOUNT_ATTR_NOSUID", "MOUNT_ATTR_NODEV"},
        "volume1": {"MOUNT_ATTR_NOSUID", "MOUNT_ATTR_NODEV"},
    }
    device = inputs(PLAIN.replace(mounts=(Mount("/dev/fuse", source="/dev/fuse"),)), sources=("device",))
    assert mounts.SetMountFlags("volume0", ("MOUNT_ATTR_NOSUID",)) in make(device).inside


def test_rights_are_given_up_in_the_order_in_which_it_can_be_done(given: Inputs) -> None:
    plan = make(given)
    last_uid, last_gid = at(plan, SetUid)[-1], at(plan, SetGid)[-1]
    order = [*at(plan, SetRlimit), one(plan, DropBounding), *at(plan, SetGroups), last_gid, last_uid, one(plan, SetCapabilities)]
    order += at(plan, NoNewPrivileges)
    # a change of ids forgets the signal, and dumpable: so the leash comes after it
    order += [
        *at(plan, DieWithParent),  # none where pybox-init must live to end the others
        one(plan, CheckLeash),
        one(plan, CloseFds),
        *at(plan, BecomeInit),
    ]
    order += [one(plan, Exec)]
    assert order == sorted(order)
    assert one(plan, DetachOldRoot) < order[0]  # mounting needs the rights


def test_no_fd_is_opened_after_the_others_are_closed(given: Inputs) -> None:
    plan = make(given)
    closed = one(plan, CloseFds)
    first = plan.inside[closed]
    assert isinstance(first, CloseFds)
    assert {type(step) for step in plan.inside[closed + 1 :]} <= {InstallFilter, BecomeInit, Exec}
    assert sorted(step.at for step in plan.inside if isinstance(step, PlaceFd)) == list(range(first.first))


def test_the_filter_is_the_last_thing_before_exec(given: Inputs) -> None:
    plan = make(given)
    for index in at(plan, InstallFilter):
        assert one(plan, NoNewPrivileges) < index
        assert {type(step) for step in plan.inside[index + 1 :]} <= {BecomeInit, Exec}
    assert bool(at(plan, InstallFilter)) is bool(given.filter)


@pytest.mark.parametrize("facts", [ROOT, USER], ids=["root", "user"])
def test_without_no_new_privileges_the_filter_is_installed_while_there_is_the_right_to(facts: Facts) -> None:
    plan = make(inputs(PLAIN.replace(no_new_privs=False), facts))
    assert at(plan, NoNewPrivileges) == []
    assert one(plan, DetachOldRoot) < one(plan, InstallFilter) < one(plan, DropBounding)


def test_a_user_namespace_is_entered_before_what_shall_belong_to_it(given: Inputs) -> None:
    plan = make(given)
    if not given.userns:
        assert at(plan, EnterUserNamespace) == [] and len(at(plan, Clone)) == 1
        assert not any(isinstance(step, MakeUserNamespace) for step in plan.prepare)
        # the network was made or found beforehand, and is entered before sysfs shows it
        assert len(at(plan, EnterNetwork)) == sum(isinstance(step, (MakeNetwork, JoinNetwork)) for step in plan.prepare)
        assert all(index < one(plan, PivotRoot) for index in at(plan, EnterNetwork))
        return
    assert not any(isinstance(step, MakeNetwork) for step in plan.prepare)
    entered = one(plan, EnterUserNamespace)
    second = plan.inside[entered + 1]
    assert isinstance(second, Clone) and second.sibling and "CLONE_NEWNS" in second.flags
    assert all(index > entered for index in at(plan, SetHostname, LoopbackUp, PivotRoot, OwnCgroupView))
    assert any(isinstance(step, MakeUserNamespace) for step in plan.prepare)


def test_groups_are_joined_before_the_view_of_them_begins(given: Inputs) -> None:
    plan = make(given)
    views = at(plan, OwnCgroupView)
    assert len(views) == bool(plan.groups)
    assert all(index < views[0] for index in at(plan, JoinGroup))
    births = [step for step in plan.inside if isinstance(step, Clone)]
    assert any("CLONE_NEWCGROUP" in step.flags for step in births) is not bool(plan.groups)
    assert (births[0].into_cgroup == "cgroup") is any(controller == "" for controller, _ in plan.groups)


def test_steps_are_numbered_through_both_sides(given: Inputs) -> None:
    plan = make(given)
    numbered = list(plan.steps())
    assert [number for number, _, _ in numbered] == list(range(1, len(plan.prepare) + len(plan.inside) + 1))
    assert [step for _, side, step in numbered if side == "host"] == list(plan.prepare)
    assert [step for _, side, step in numbered if side == "inside"] == list(plan.inside)


STEP_CLASSES = step_kinds()


@pytest.mark.parametrize("kind", STEP_CLASSES, ids=lambda kind: kind.__name__)
def test_each_kind_of_step_is_a_lesson_with_a_page_to_read(kind: type[Step]) -> None:
    import re

    assert "__doc__" in vars(kind) and len(str(kind.__doc__)) > 30 and kind.__doc__ != Step.__doc__
    assert re.fullmatch(r"[A-Za-z_0-9-]+\([1-8](const|type)?\)", kind.man) and kind.call
    assert issubclass(kind, (HostStep, ChildStep))
    assert kind.check is not Step.check and kind.describe is not Step.describe and kind.calls is not Step.calls
    assert (kind.apply is not HostStep.apply) if issubclass(kind, HostStep) else (kind.lower is not ChildStep.lower)  # type: ignore[attr-defined]


def test_every_kind_of_step_is_in_some_plan_of_this_file() -> None:
    used = {type(step) for given in VARIANTS.values() for _, _, step in make(given).steps()}
    # those of an exec: test_entering.py
    used |= {entering.EnterNamespaces, entering.OpenGroup, entering.HideMemory, entering.OpenWorkdir}
    assert {kind.__name__ for kind in STEP_CLASSES} - {kind.__name__ for kind in used} == set()


def test_each_step_says_in_half_a_line_what_it_does(given: Inputs) -> None:
    for _, _, step in make(given).steps():
        text = step.describe()
        assert text and "\n" not in text and text[0].islower() and len(text) < 130
        assert not text.endswith(".") or text.endswith(" .")  # the directory one is in
        if step == DropBounding((1 << 41) - 1, 40):
            continue  # nothing to drop, so no call
        assert step.calls() and all(call.partition("(")[0].isidentifier() and call.endswith(")") for call in step.calls())
        assert any(call.startswith(step.call) for call in step.calls()), (step.call, step.calls())


def test_a_plan_survives_pickling() -> None:
    import pickle

    plan = make(VARIANTS["everything"])
    assert pickle.loads(pickle.dumps(plan)) == plan
