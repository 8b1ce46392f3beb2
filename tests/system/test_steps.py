"""Each step of a plan has a post-condition, and the kernel shows each of them on a running container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness import CONTROLLERS, PURE_V2, eventually, running

from pybox import api, steps
from pybox.seen import Seen
from pybox.spec import Limits, Mount, Rlimit, Spec
from pybox.steps.base import ChildStep, HostStep, Step

SLEEP = ("sleep", "1000")
LIMITS = {
    name: value
    for controller, name, value in (
        ("memory", "memory", 64 << 20), ("pids", "pids", 50), ("cpu", "cpus", 0.5), ("cpuset", "cpuset_cpus", "0"), ("cpu", "cpu_shares", 512),
    )
    if controller in CONTROLLERS
}  # fmt: skip


def specs(volume: str) -> dict[str, Spec]:
    """Return containers that have between them every kind of step."""
    file = f"{volume}/file"
    return {
        "plain": Spec("busybox", SLEEP),
        "no-init": Spec("busybox", SLEEP, init=False),
        "limits": Spec("busybox", SLEEP, limits=Limits(oom_score_adj=300, **LIMITS)),  # type: ignore[arg-type]
        "userns": Spec("busybox", SLEEP, userns=True),
        "files": Spec(
            "busybox", SLEEP, read_only=True, workdir="/var", hostname="steps",
            mounts=(Mount("/v", source=volume, read_only=True), Mount("/v2/deep", source=volume), Mount("/f", source=file),
                    Mount("/t", size=1 << 20), Mount("/n", source="/dev/null"), Mount("/tr", read_only=True)),
        ),
        "images": Spec("busybox", SLEEP, mounts=(Mount("/i", image="busybox"), Mount("/ro", image="busybox", read_only=True))),
        "rights": Spec(
            "busybox", SLEEP, user="alice", cap_drop=("ALL",), cap_add=("CAP_CHOWN",), env=(("A", "1"),),
            rlimits=(Rlimit("nofile", 64, 128), Rlimit("core", 0, 0)),
        ),
        "unconfined": Spec("busybox", SLEEP, seccomp="unconfined", no_new_privs=False),
        "shared": Spec("busybox", SLEEP, network="host", uts="host"),
        "pid host": Spec("busybox", SLEEP, pid="host"),
        "host image": Spec("host", SLEEP),
    }  # fmt: skip


@pytest.fixture
def volume(tmp_path: Path) -> str:
    (tmp_path / "file").write_text("x")
    return str(tmp_path)


@pytest.mark.parametrize("name", specs("/"))
def test_the_kernel_shows_each_step_on_a_running_container(name: str, volume: str) -> None:
    spec = specs(volume)[name]
    plan = api._SHARED.runtime().plan(spec)
    with running(spec) as (seen, _, _):
        wrong = [step for _, _, step in plan.steps() if not step.check(seen)]
        # the parent goes on when exec has let go of its memory, a moment before the kernel has laid out the new one
        assert eventually(lambda: all(step.check(seen) for step in wrong), seconds=10), [step.describe() for step in wrong]


def kinds(base: type[Step]) -> set[type[Step]]:
    found = set()
    for kind in base.__subclasses__():
        found |= {kind} | kinds(kind)
    return {kind for kind in found if kind.__module__.startswith("pybox.")}  # other tests make their own


ELSEWHERE = ("delegation", "disk", "entering", "quota", "terminal")


def test_every_kind_of_step_is_in_one_of_these_plans(volume: str) -> None:
    runtime = api._SHARED.runtime()
    used = {type(step) for spec in specs(volume).values() for _, _, step in runtime.plan(spec).steps()}
    # terminals, entering, quotas, disks and inits: test_terminal.py, test_exec.py, test_storage_size.py and test_system_containers.py
    elsewhere = {kind for kind in kinds(HostStep) | kinds(ChildStep) if kind.__module__.rpartition(".")[2] in ELSEWHERE}
    missing = {kind.__name__ for kind in (kinds(HostStep) | kinds(ChildStep)) - elsewhere} - {kind.__name__ for kind in used}
    # one group tree is limited by cgroup v2, the other by v1; the same tests run on both
    other_kernel = {"JoinGroup"} if PURE_V2 else {"EnableControllers"}
    assert missing - other_kernel == set()


@pytest.mark.parametrize("name", ["plain", "no-init", "userns", "files", "rights"])
def test_checks_are_not_vacuous(name: str, volume: str) -> None:
    """Seen on this very process, which is no container, most post-conditions of a plan are false."""
    plan = api._SHARED.runtime().plan(specs(volume)[name])
    outside = Seen(os.getpid(), "0" * 12)

    def holds(step: Step) -> bool:
        try:
            return step.check(outside)
        except OSError:
            return False

    judged = [holds(step) for _, _, step in plan.steps()]
    assert judged.count(False) > len(judged) * 0.35


def test_every_kind_of_step_explains_itself() -> None:
    for kind in kinds(HostStep) | kinds(ChildStep):
        assert kind.__doc__ and len(kind.__doc__) > 30, kind
        assert kind.call and kind.man, kind
        for method in ("describe", "calls", "check"):
            assert getattr(kind, method) is not getattr(Step, method), (kind, method)


def test_a_plan_is_the_same_each_time(volume: str) -> None:
    runtime = api._SHARED.runtime()
    for spec in specs(volume).values():
        assert runtime.plan(spec) == runtime.plan(spec)
        assert runtime.plan(spec).lower() == runtime.plan(spec).lower()


def test_the_modules_of_steps_are_all_looked_at() -> None:
    from pybox.steps import delegation, disk, entering, images, pasta, quota, terminal, wiring  # noqa: F401  imported by those who need them

    found = {path.stem for path in Path(steps.__file__ or "").parent.glob("*.py")} - {"__init__", "base"}
    assert found == {kind.__module__.rpartition(".")[2] for kind in kinds(HostStep) | kinds(ChildStep)}
