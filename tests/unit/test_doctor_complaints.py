"""What doctor says of what it may find: each judge is a pure function, so every complaint can be provoked by a made-up finding."""

from __future__ import annotations

import errno

import pytest
from test_doctor import FINE, USERNS, refused

from pybox.doctor import files, groups, kernel, namespaces, rights, runs, sizes, system, without
from pybox.doctor.item import Item
from pybox.doctor.session import Settings
from pybox.doctor.table import PROBES
from pybox.doctor.trial import Outcome
from pybox.host import Cgroups

# --- each complaint: (item, level, blocks, a word of what happened, a word of the fix) --------------------------------------------

CALLS = kernel.Calls("5.4", "x86_64", (("clone3", 0), ("mount_setattr", errno.ENOSYS)))
ENDED = groups.Ended("/sys/fs/cgroup/pybox-x")
HYBRID = groups.Layout("/sys/fs/cgroup/unified", ("hugetlb",), ("memory", "pids"))
NO = groups.Held("cpuset", "--cpuset-cpus", problem="cannot enforce --cpuset-cpus: the controller cpuset is not available")
YES = groups.Held("memory", "--memory", "cgroup v2")
V2 = Cgroups("/sys/fs/cgroup", frozenset({"memory"}))
PLAIN_V2 = Cgroups(problem="not delegated", fix="run it through: systemd-run --user --scope -p Delegate=yes pybox ...")
HYBRID_PLAIN = Cgroups(problem="cgroup v1 (hybrid) host")
SYSTEMD = FINE.replace(systemd=True)
FILTERED = FINE.replace(seccomp=2)
IN_DOCKER = FINE.replace(container="docker")
INSIDE = FINE.replace(mapped=True)
STORE = files.Storage("/s", "/r", 7, fstype="ext4", free=1 << 40, files=1 << 20, attributes=(("user", ""),))
RIGHT = Outcome([["changed", "old"], "image container", "image"])
EIO = refused("mnt/old", errno.EIO)
CAPS = rights.Capabilities(True, ("CAP_SYS_RESOURCE",), (), "raise a hard limit: Operation not permitted [EPERM]")
BOTH = ("run", "rootless")

COMPLAINTS = [
    (kernel.judge_where(FILTERED), "warn", (), "seccomp filter from outside", "seccomp=unconfined"),
    (kernel.judge_where(INSIDE), "warn", (), "in a user namespace", "outside of this user namespace"),
    (kernel.judge_kernel(CALLS, FINE), "fail", BOTH, "mount_setattr ENOSYS", "boot Linux 5.14"),
    (kernel.judge_kernel(CALLS, FILTERED), "fail", BOTH, "refuses them", "seccomp=unconfined"),
    (kernel.judge_pdeathsig(Outcome([0, 0])), "warn", (), "lived on", "pybox gc"),
    (kernel.judge_pdeathsig(refused("prctl(36)", errno.EINVAL)), "warn", (), "EINVAL", "pybox gc"),
    (kernel.judge_psi((("/proc/pressure/cpu", "Operation not supported"),), False), "warn", (), "not supported", "psi=1"),
    (without.judge_missing_extension("no module"), "fail", BOTH, "no module", "pip install"),
    (runs.judge_extension(refused("/x/pybox-init", errno.ENOENT), "/x/pybox-init"), "fail", BOTH, "ENOENT", "pip install"),
    (runs.judge_extension(Outcome([108, False, 1]), "/x/pybox-init"), "fail", BOTH, "ended with [108", "pip install"),
    (rights.judge_capabilities(CAPS, FINE), "warn", (), "without CAP_SYS_RESOURCE (raise", "CapabilityBoundingSet"),
    (rights.judge_capabilities(CAPS, IN_DOCKER), "warn", (), "CAP_SYS_RESOURCE", "--cap-add SYS_RESOURCE"),
    (rights.judge_capabilities(CAPS.replace(regainable=CAPS.lacking), FINE), "warn", (), "CAP_SYS_RESOURCE", "sudo -i"),
    (rights.judge_capabilities(CAPS.replace(lacking=("CAP_MKNOD",)), FINE), "fail", ("run",), "CAP_MKNOD", "bounding set"),
    (
        rights.judge_seccomp(refused("prctl(PR_SET_SECCOMP)", errno.EINVAL), 9),
        "fail",
        BOTH,
        "no seccomp",
        "CONFIG_SECCOMP_FILTER",
    ),
    (rights.judge_seccomp(Outcome([2, 0]), 9), "fail", BOTH, "does not bite", "unconfined"),
    (rights.judge_seccomp(Outcome(call="the trial's process was killed by signal 31"), 9), "fail", BOTH, "signal 31", "outer"),
    (rights.judge_seccomp(Outcome(call="no table of system calls for riscv64"), 0), "fail", BOTH, "riscv64", "unconfined"),
    (namespaces.judge_subuid(namespaces.Ranges(7, None, None)), "warn", (), "none for uid 7", "usermod --add-subuids"),
    (
        namespaces.judge_subuid(namespaces.Ranges(7, (1, 2), (1, 2), "newuidmap is not installed", "sudo apt install uidmap")),
        *("fail", BOTH, "newuidmap is not installed", "apt install uidmap"),
    ),
    (namespaces.judge_subuid(namespaces.Ranges(7, (1, 2), (1, 2), "status 1")), "fail", BOTH, "status 1", "lines of uid 7"),
    (namespaces.judge_proc(refused("mount(proc on /proc)", errno.EPERM), FINE), "fail", BOTH, "too revealing", "unmask=ALL"),
    (namespaces.judge_proc(Outcome(["1", "77"]), FINE), "fail", BOTH, "['1', '77']", "report it"),
    (namespaces.judge_proc(refused(USERNS, errno.EINVAL), FINE), "fail", BOTH, "without user namespaces", "CONFIG_USER_NS"),
    (groups.judge_cgroup(HYBRID, True, FINE), "warn", (), "HYBRID: v2 is at /sys/fs/cgroup/unified", "no systemd here"),
    (groups.judge_cgroup(HYBRID, False, SYSTEMD), "warn", (), "offers only: hugetlb", "systemd.unified_cgroup_hierarchy=1"),
    (groups.judge_cgroup(HYBRID, False, FINE.replace(machine="WSL")), "warn", (), "HYBRID", ".wslconfig"),
    (groups.judge_cgroup(groups.Layout(v1=("memory",)), True, FINE), "warn", (), "v1 only: memory", "cgroup_no_v1=all"),
    (groups.judge_cgroup(groups.Layout(), True, FINE), "warn", (), "no cgroup file system", "mount -t cgroup2"),
    (groups.judge_limits((YES, NO), V2, True, FINE), "fail", (), "memory ✓  cpuset ✗: the controller cpuset", "CONFIG_CPUSETS=y"),
    (groups.judge_limits((NO.replace(hint="do this; --best-effort runs"),), V2, True, FINE), "fail", (), "cpuset ✗", "do this"),
    (
        groups.judge_limits((NO,), PLAIN_V2, False, SYSTEMD),
        "fail",
        (),
        "cpuset ✗",
        "systemd-run --user --scope -p Delegate=yes pybox",
    ),
    (groups.judge_limits((NO,), PLAIN_V2, False, FINE), "fail", (), "cpuset ✗", "sudo pybox run"),
    (groups.judge_limits((NO,), HYBRID_PLAIN, False, SYSTEMD), "fail", (), "cpuset ✗", "sudo pybox run ...   or: add systemd."),
    (groups.judge_limits((NO,), Cgroups(problem="no cgroup2"), True, FINE), "fail", (), "cpuset ✗", "cgroup_no_v1=all"),
    (groups.judge_kill(None, "not delegated", PLAIN_V2.fix, SYSTEMD), "warn", (), "not delegated", "systemd-run --user"),
    (groups.judge_kill(None, "cgroup v1 (hybrid) host", "", FINE), "warn", (), "hybrid", "sudo pybox run"),
    (groups.judge_kill(ENDED.replace(kill="cgroup.kill: Permission denied"), "", "", FINE), "warn", (), "Permission", "5.14"),
    (groups.judge_kill(ENDED.replace(freeze="nothing froze"), "", "", FINE), "warn", (), "nothing froze", "5.14"),
    (
        system.judge_system(None, HYBRID_PLAIN, False, FINE),
        "warn",
        (),
        "systemd ✗: no cgroup2 group can be made",
        "sudo pybox run",
    ),
    (system.judge_system(None, PLAIN_V2, False, SYSTEMD), "warn", (), "not delegated", "systemd-run --user --scope"),
    (system.judge_system(None, Cgroups(problem="no cgroup2"), True, FINE), "warn", (), "no cgroup2", "cgroup_no_v1=all"),
    (
        system.judge_system(refused("mount(cgroup2 on /x)", errno.EPERM), V2, True, FINE),
        "warn",
        (),
        "EPERM",
        "pybox doctor userns",
    ),
    (system.judge_system(Outcome(["0::/", ""]), V2, True, FINE), "warn", (), "is in ['0::/'", "report this line"),
    (files.judge_storage(STORE.replace(problem="/s: Permission denied")), "fail", BOTH, "/s: Permission", "export PYBOX_STORE="),
    (files.judge_storage(STORE.replace(free=1 << 20)), "warn", (), "0.0 GiB", "on a bigger disk"),
    (files.judge_storage(STORE.replace(files=9)), "warn", (), "9 files free", "on a bigger disk"),
    (files.judge_storage(STORE.replace(attributes=(("user", "not supported"),))), "warn", (), "not supported", "on ext4, xfs"),
    (
        files.judge_storage(STORE.replace(attributes=(("trusted", "not permitted"),), mapped=True)),
        *("warn", (), "trusted.* xattrs: not permitted", "outside of this user namespace"),
    ),
    (
        sizes.judge_sizes(sizes.Sizes(True, True, "no quotas", "there is no mkfs.ext4", "apt-get install e2fsprogs")),
        *("warn", (), "on disk: nothing: no quotas; there is no mkfs.ext4", "apt-get install e2fsprogs"),
    ),
    (files.judge_images(files.Shelf(0, 0, problem="/s/images/x: not JSON")), "warn", (), "not JSON", "pybox rmi"),
    (
        files.judge_leftovers(files.Leftovers(("/r/a",), ("/s/b", "/s/c"))),
        "warn",
        (),
        "1 record of a killed pybox; 2 writ",
        "pybox gc",
    ),
    (
        files.judge_leftovers(files.Leftovers(groups=("/sys/fs/cgroup/pybox-x",))),
        "warn",
        (),
        "1 control group",
        "rmdir /sys/fs/cgroup/pybox-x",
    ),
    (runs.judge_run(runs.Ran("mount: no", "do that")), "fail", BOTH, "mount: no", "do that"),
    (runs.judge_run(runs.Ran("mount: no")), "fail", BOTH, "mount: no", "mend what complains above"),
    (runs.judge_run(runs.Ran(exit_code=127, said="cat: not found")), "fail", BOTH, "ended with 127: cat: not found", "mend"),
    (
        runs.judge_run(runs.Ran(said="NSpid:\t2\nNoNewPrivs:\t1\nSeccomp:\t0")),
        "fail",
        BOTH,
        "ran without: seccomp filter",
        "mend",
    ),
    (runs.judge_host_image(runs.Ran("mount: no")), "warn", (), "mount: no", "pybox run busybox id"),
    (runs.judge_host_image(runs.Ran(exit_code=1, said="x")), "warn", (), "true ended with 1: x", "pybox run busybox id"),
]


@pytest.mark.parametrize(
    ("item", "level", "blocks", "happened", "fix"), COMPLAINTS, ids=[f"{row[0].id}-{row[3]}"[:40] for row in COMPLAINTS]
)
def test_each_complaint_names_what_happened_and_how_to_mend_it(
    item: Item, level: str, blocks: tuple[str, ...], happened: str, fix: str
) -> None:
    assert (item.level, item.blocks) == (level, blocks)
    assert happened in item.happened
    assert fix in item.fix
    assert item.lost
    for text in (item.happened, item.lost, item.fix, item.tried, item.title):
        assert "\n" not in text


@pytest.mark.parametrize("number", [0, 1])
def test_the_complaints_cover_every_item(number: int) -> None:
    complaining = {row[0].id for row in COMPLAINTS} | {"userns", "overlay"}  # these two have tests of their own
    names = {probe.id for probe in PROBES}
    assert (names - complaining, complaining - names)[number] == set()


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (sizes.Sizes(True, True), "in memory (--rm): the size of its tmpfs; on disk: a project quota"),
        (sizes.Sizes(True, True, "no quotas"), "on disk: a disk of its own, by a loop device (no quotas)"),
        (sizes.Sizes(False, False), "in memory: none, this kernel can't have it there; on disk: refused, that takes root"),
    ],
)
def test_what_limits_a_writable_layer_is_named(seen: sizes.Sizes, words: str) -> None:
    item = sizes.judge_sizes(seen)
    assert item.level == "ok" and words in item.happened


# --- user namespaces: one refusal, many causes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "settings", "cause", "fix"),
    [
        (refused(USERNS, errno.ENOSPC), FINE.replace(max_userns="0"), "max_user_namespaces is 0", "max_user_namespaces=10000"),
        (refused(USERNS, errno.ENOSPC), FINE, "more than 32", "max_user_namespaces=100000"),
        (refused(USERNS, errno.EINVAL), FINE, "built without user namespaces", "CONFIG_USER_NS=y"),
        (refused(USERNS, errno.EPERM), FINE.replace(userns_clone="0"), "unprivileged_userns_clone is 0", "userns_clone=1"),
        (
            refused("/proc/self/uid_map", errno.EACCES),
            FINE.replace(apparmor_userns="1"),
            "/usr/bin/python3 has none",
            "=0   (for all",
        ),
        (
            refused("mount(tmpfs on /)", errno.EACCES),
            FINE.replace(apparmor_userns="1"),
            "AppArmor",
            "restrict_unprivileged_userns=0",
        ),
        (refused(USERNS, errno.EPERM), FILTERED, "seccomp filter from outside", "seccomp=unconfined"),
        (refused(USERNS, errno.EPERM), IN_DOCKER, "docker container around us", "--privileged"),
        (refused(USERNS, errno.EPERM), INSIDE, "only that of a user namespace", "outside of this user namespace"),
        (refused(USERNS, errno.EPERM), FINE, "chroot", "outside of the chroot"),
        (refused("sethostname", errno.EPERM), FINE, "", "dmesg"),
    ],
)
def test_a_refused_user_namespace_is_explained_by_the_setting_that_refuses_it(
    outcome: Outcome, settings: Settings, cause: str, fix: str
) -> None:
    item = namespaces.judge_userns(outcome, None, 1000, settings)
    assert (item.level, item.blocks) == ("fail", BOTH)
    assert item.happened.startswith(f"uid 1000: {outcome.words()}")
    assert cause in item.happened
    assert fix in item.fix


def test_root_can_do_without_user_namespaces_but_plain_users_can_not() -> None:
    no = refused(USERNS, errno.EPERM)
    plain = namespaces.judge_userns(no, Outcome(True), 65534, FINE)
    assert (plain.level, plain.blocks, plain.lost) == ("fail", ("rootless",), "pybox for plain users")
    assert plain.happened.startswith("root: all worked; uid 65534: unshare(CLONE_NEWUSER): Operation not permitted [EPERM]")
    root = namespaces.judge_userns(Outcome(True), no, 65534, FINE)
    assert (root.level, root.lost) == ("warn", "`run --userns`")
    assert namespaces.judge_userns(Outcome(), Outcome(True), None, FINE).happened == "root: all worked"


# --- overlays ----------------------------------------------------------------------------------------------------------------


def stacks(memory: Outcome, disk: Outcome, place: str = "on ext4", plain: Outcome = RIGHT) -> tuple[files.Stacked, ...]:
    return (
        files.Stacked("root", "in memory", memory),
        files.Stacked("root", place, disk, default=False),
        files.Stacked("uid 7", "in memory", plain, own=False),
    )


def test_an_overlay_that_can_not_be_mounted_blocks_every_run() -> None:
    item = files.judge_overlay(stacks(refused("mount(overlay on mnt)", errno.ENODEV), RIGHT), "ext4", FINE)
    assert (item.level, item.blocks, item.fix) == ("fail", BOTH, "sudo modprobe overlay")
    assert "root, upper in memory: mount(overlay on mnt): No such device [ENODEV]; root, upper on ext4: ✓" in item.happened
    old = files.judge_overlay((files.Stacked("uid 7", "on ext4", refused("mount(overlay on mnt)", errno.EPERM)),), "ext4", FINE)
    assert (old.level, "5.11" in old.happened) == ("fail", True)
    nested = files.judge_overlay((files.Stacked("uid 7", "on ext4", refused(USERNS, errno.EPERM)),), "ext4", FILTERED)
    assert (nested.level, "seccomp" in nested.fix) == ("fail", True)
    unknown = files.judge_overlay(stacks(refused("mount(overlay on mnt)", errno.EINVAL), RIGHT), "ext4", FINE)
    assert "dmesg" in unknown.fix


def test_a_storage_that_can_not_hold_an_upper_layer_costs_only_the_kept_containers() -> None:
    item = files.judge_overlay(stacks(RIGHT, refused("mount(overlay on mnt)", errno.EINVAL), "on nfs4"), "nfs4", FINE)
    assert (item.level, item.blocks) == ("warn", ())
    assert item.happened.endswith(": an upper layer can't be on nfs4")
    assert "--rm" in item.lost
    assert "export PYBOX_STORE=" in item.fix


def test_an_overlay_without_attributes_works_with_losses() -> None:
    item = files.judge_overlay(stacks(EIO, RIGHT), "ext4", FINE)
    assert (item.level, item.blocks) == ("warn", ())
    assert "extended attributes" in item.happened
    assert "user namespace" in files.judge_overlay(stacks(EIO, RIGHT), "ext4", INSIDE).fix
    wrong = files.judge_overlay(stacks(Outcome([[], "", "image"]), RIGHT), "ext4", FINE)
    assert (wrong.level, "it shows [[], '', 'image']" in wrong.happened) == ("warn", True)


def test_root_is_told_what_plain_users_lose() -> None:
    item = files.judge_overlay(stacks(RIGHT, RIGHT, plain=refused("mount(overlay on mnt)", errno.EINVAL)), "ext4", FINE)
    assert (item.level, item.lost.startswith("runs of plain users")) == ("warn", True)


# --- and the good news -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "happened"),
    [
        (kernel.judge_where(FINE), "on the machine itself"),
        (kernel.judge_where(IN_DOCKER.replace(machine="virtual machine")), "in a container (docker), virtual machine"),
        (kernel.judge_kernel(CALLS.replace(errnos=(("clone3", 0),)), FINE), "clone3 ✓"),
        (kernel.judge_pdeathsig(Outcome([0, -9])), "killed with it"),
        (kernel.judge_psi((("/proc/pressure/cpu", ""),), True), "on (psi= is given)"),
        (runs.judge_extension(Outcome([0, True, 20480]), "x"), "C extension ✓  pybox-init ✓ (20 KiB)"),
        (rights.judge_capabilities(rights.Capabilities(True), FINE), "all of them"),
        (rights.judge_seccomp(Outcome([2, errno.EPERM]), 99), "99 instructions"),
        (namespaces.judge_subuid(namespaces.Ranges(7, (100000, 65536), (100000, 65536))), "uids from 1 on are 100000 (+65536)"),
        (namespaces.judge_proc(Outcome(["1"]), FINE), "process 1 and no other"),
        (
            groups.judge_cgroup(groups.Layout("/sys/fs/cgroup", ("memory",), own="/x"), True, FINE),
            "v2 at /sys/fs/cgroup, offers memory",
        ),
        (groups.judge_limits((YES,), V2, True, FINE), "memory ✓  (cgroup v2)"),
        (groups.judge_limits((YES.replace(how="cgroup v1"),), V2, True, FINE), "through cgroup v1"),
        (groups.judge_kill(ENDED, "", "", FINE), "both worked"),
        (system.judge_system(Outcome(["0::/service", "cpu memory"]), V2, True, FINE), "limit its services: cpu memory"),
        (
            system.judge_system(Outcome(["0::/service", ""]), V2.replace(v1=(("memory", "/m"),)), True, FINE),
            "systemd ✓, it can't limit its services",
        ),
        (files.judge_storage(STORE), "/s on ext4, 1024.0 GiB, 1048576 files free, user.* xattrs ✓"),
        (files.judge_storage(STORE.replace(files=None)), "1024.0 GiB free"),
        (files.judge_images(files.Shelf(0, 0)), "next: pybox run host id   or: make images"),
        (files.judge_images(files.Shelf(2, 5_000_000, "busybox:latest")), "2 images, 5 MB; next: pybox run busybox:latest id"),
        (files.judge_leftovers(files.Leftovers()), "none"),
        (files.judge_overlay(stacks(RIGHT, RIGHT), "ext4", FINE), "root, upper in memory: ✓"),
        (runs.judge_host_image(runs.Ran(wall=0.002)), "2.0 ms"),
        (
            runs.judge_run(
                runs.Ran(
                    said="NSpid:\t2\nNoNewPrivs:\t1\nSeccomp:\t2", effective=(("--memory", "cgroup v2"), ("--cpus", "none: x"))
                )
            ),
            "confined, with --memory",
        ),
        (runs.judge_run(runs.Ran(said="NSpid:\t2\nNoNewPrivs:\t1\nSeccomp:\t2")), "confined, without limits"),
    ],
)
def test_what_works_is_said_in_one_line(item: Item, happened: str) -> None:
    assert item.level == "ok"
    assert happened in item.happened
    assert not item.fix


def test_what_does_not_concern_the_caller_is_not_judged() -> None:
    assert rights.judge_capabilities(rights.Capabilities(False), FINE).level == "n/a"
    assert namespaces.judge_subuid(namespaces.Ranges(0, None, None)).level == "n/a"
    assert files.not_tried("overlay", "overlay").level == "n/a"
