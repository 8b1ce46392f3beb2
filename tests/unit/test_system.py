"""What --system writes into a Spec: an init's console, mounts, rights and language, and a control group of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_plan import HYBRID, ROOT, USER, inputs
from test_plan import IMAGE as STACKED
from test_seccomp_profile import verdict

from pybox import system
from pybox.errors import LimitError, SpecError
from pybox.host import Cgroups
from pybox.image.model import Image, ImageConfig
from pybox.kernel import credentials
from pybox.kernel.bpf import ALLOW, errno
from pybox.plan import Plan, make
from pybox.spec import Mount, Spec
from pybox.steps.delegation import DelegateGroup
from pybox.steps.hostside import MakeGroup
from pybox.steps.mounts import MountKernelFs
from pybox.steps.process import BecomeInit, Clone, PlaceFd
from pybox.steps.terminal import ControlTerminal, OpenTerminal, ShowConsole

IMAGE = STACKED.replace(layers=())  # nothing is read of it
BOX = Spec(image="busybox", args=("/sbin/init",), system=True, userns=True)


def image(tmp_path: Path, links: dict[str, str], files: tuple[str, ...] = (), config: ImageConfig | None = None) -> Image:
    """Return an image of one layer with symlinks and files."""
    for name in (*files, *links):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    for name in files:
        (tmp_path / name).write_text("program")
    for name, to in links.items():
        os.symlink(to, tmp_path / name)
    return Image("box", "sha256:0", (str(tmp_path),), config or ImageConfig(cmd=("/sbin/init",)))


@pytest.mark.parametrize(
    ("links", "files", "command", "name"),
    [
        ({"sbin": "usr/sbin", "usr/sbin/init": "/lib/systemd/systemd", "lib": "usr/lib"}, ("usr/lib/systemd/systemd",), "/sbin/init", "systemd"),
        ({"sbin": "bin", "bin/init": "busybox"}, ("bin/busybox",), "/sbin/init", "busybox"),
        ({"sbin/init": "/bin/busybox"}, ("bin/busybox",), "/sbin/init", "busybox"),
        ({}, ("sbin/init",), "init", "init"),
        ({}, ("usr/bin/s6-svscan",), "s6-svscan", "s6-svscan"),
        ({}, ("usr/bin/runsvdir",), "/usr/bin/runsvdir", "runsvdir"),
        ({"bin/sh": "busybox"}, ("bin/busybox",), "/bin/sh", ""),
        ({}, ("bin/tini",), "/bin/tini", ""),
        ({"sbin/init": "init"}, (), "/sbin/init", "init"),  # a loop, which the exec will complain of
        ({}, (), "/sbin/init", "init"),
    ],
)  # fmt: skip
def test_an_init_is_known_by_the_program_its_links_lead_to(
    tmp_path: Path, links: dict[str, str], files: tuple[str, ...], command: str, name: str
) -> None:
    found = system.init_of(image(tmp_path, links, files), (command,))
    assert (found.name if found else "") == name


def test_busybox_and_its_applet_as_two_words_are_an_init_too(tmp_path: Path) -> None:
    box = image(tmp_path, {}, ("bin/busybox",))
    assert system.init_of(box, ("/bin/busybox", "init")) is not None
    assert system.init_of(box, ("/bin/busybox", "sh", "-c", "init")) is None


def test_each_init_is_asked_to_end_in_its_own_language(tmp_path: Path) -> None:
    box = image(tmp_path, {"sbin/init": "/bin/busybox"}, ("bin/busybox",), ImageConfig(cmd=("/sbin/init",)))
    assert system.settle(BOX, ROOT, box).stop_signal == "USR2"
    spoken = box.replace(config=box.config.replace(stop_signal="SIGRTMIN+3"))
    assert system.settle(BOX, ROOT, spoken).stop_signal == "SIGRTMIN+3"
    assert system.settle(BOX.replace(stop_signal="INT"), ROOT, spoken).stop_signal == "INT"
    assert system.settle(BOX.replace(args=("/bin/other",)), ROOT, box).stop_signal == ""


def test_settling_again_changes_nothing() -> None:
    for facts in (ROOT, USER, ROOT.replace(cgroups=HYBRID)):
        once = system.settle(BOX, facts, IMAGE)
        assert system.settle(once, facts, IMAGE) == once != BOX


def test_what_was_asked_for_by_name_stays() -> None:
    mine = BOX.replace(mounts=(Mount("/run/", size=1 << 20),), env=(("container", "lxc"),), cap_drop=("CAP_NET_ADMIN",))
    found = system.settle(mine, ROOT, IMAGE)
    assert [mount.target for mount in found.mounts] == ["/run/"]
    assert found.env == (("container", "lxc"),)
    assert "CAP_NET_ADMIN" not in credentials.granted(found, 40) and "CAP_SYS_ADMIN" in credentials.granted(found, 40)
    assert "CAP_SYS_ADMIN" not in credentials.granted(system.settle(BOX.replace(cap_drop=("ALL",)), ROOT, IMAGE), 40)


def test_power_over_mounts_is_given_in_a_user_namespace_of_its_own_only() -> None:
    ours = system.settle(BOX.replace(userns=False), ROOT, IMAGE)
    assert credentials.granted(ours, 40) == frozenset(credentials.DEFAULT)
    assert "CAP_SYS_ADMIN" in credentials.granted(system.settle(BOX.replace(userns=False), USER, IMAGE), 40)


def test_the_filter_lets_an_init_mount_but_nothing_else_that_sys_admin_opens() -> None:
    caps = system.callable_by(credentials.granted(system.settle(BOX, ROOT, IMAGE), 40))
    for call in ("mount", "umount2", "pivot_root", "unshare", "setns", "clone3"):
        assert verdict(call, caps=caps) == ALLOW, call
    for call in (
        "bpf",
        "perf_event_open",
        "syslog",
        "quotactl",
        "fanotify_init",
        "reboot",
        "kexec_load",
        "keyctl",
        "open_by_handle_at",
    ):
        assert verdict(call, caps=caps) == errno(1), call
    plain = frozenset(credentials.DEFAULT)
    assert system.callable_by(plain) == plain


def test_systemd_without_a_group_is_refused_and_others_are_not(tmp_path: Path) -> None:
    alone = USER.replace(cgroups=Cgroups(problem="cgroup v1 (hybrid) host"))
    box = image(tmp_path, {"sbin/init": "/lib/systemd/systemd"}, ("lib/systemd/systemd",))
    with pytest.raises(LimitError, match=r"systemd can't be process 1 here, .*hybrid"):
        system.settle(BOX, alone, box)
    assert system.settle(BOX, alone, IMAGE).system


def test_an_init_must_be_process_1() -> None:
    with pytest.raises(SpecError, match="--system"):
        Spec(image="busybox", system=True, pid="host")


def plan(facts: object = ROOT, **changes: object) -> Plan:
    """Return the plan of a settled system container."""
    spec = system.settle(BOX.replace(**changes), facts, IMAGE)  # type: ignore[arg-type]
    return make(inputs(spec, facts, sources=tuple("tmpfs" for _ in spec.mounts), managed=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("facts", [ROOT, ROOT.replace(cgroups=HYBRID)], ids=["v2", "hybrid"])
def test_it_is_born_in_a_group_that_is_its_own_below_the_one_with_its_limits(facts: object) -> None:
    found = plan(facts)
    (whole,) = [step for step in found.prepare if isinstance(step, MakeGroup) and not step.join]
    (inner,) = [step for step in found.prepare if isinstance(step, DelegateGroup)]
    assert (inner.parent, inner.path, inner.owner) == (whole.path, f"{whole.path}/container", 2_000_000_000)
    assert whole.slot != inner.slot == next(step for step in found.inside if isinstance(step, Clone)).into_cgroup
    assert dict(found.groups)[""] == whole.path  # what is counted, frozen and killed
    (mounted,) = [step for step in found.inside if isinstance(step, MountKernelFs) and step.fstype == "cgroup2"]
    assert mounted.target == "/sys/fs/cgroup" and "MS_RDONLY" not in mounted.flags
    assert ("group", whole.path) in found.leaves()  # and with it what is below


def test_it_has_a_console_that_is_nobodys_session_and_no_pybox_init() -> None:
    kinds = [type(step) for step in plan().inside]
    assert {OpenTerminal, ShowConsole} <= set(kinds)
    assert not {ControlTerminal, BecomeInit} & set(kinds)
    assert [step.slot for step in plan().inside if isinstance(step, PlaceFd)] == ["terminal"] * 3


def test_other_containers_do_not_get_any_of_it() -> None:
    found = make(inputs(Spec(image="busybox", userns=True), managed=True))
    assert not [step for step in found.prepare if isinstance(step, DelegateGroup)]
    (mounted,) = [step for step in found.inside if isinstance(step, MountKernelFs) and step.fstype == "cgroup2"]
    assert "MS_RDONLY" in mounted.flags
