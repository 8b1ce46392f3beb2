"""Limits: the value written for each, on both kinds of host; a limit that can't be enforced is refused and says the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybox.bill import Bill, bill
from pybox.dirs import Dirs
from pybox.errors import LimitError
from pybox.host import Cgroups, Facts
from pybox.image.model import Image
from pybox.kernel import cgroup
from pybox.kernel.inputs import Inputs
from pybox.spec import Limits, Spec
from pybox.steps.base import Desk
from pybox.steps.hostside import EnableControllers, MakeGroup, SetLimit
from pybox.steps.process import JoinGroup, SetOomScore

V2 = Cgroups(unified="/cg", controllers=frozenset({"memory", "pids", "cpu", "cpuset"}))
V1 = Cgroups(
    unified="/cg/unified",
    v1=tuple((name, f"/cg/{name}/own") for name in ("memory", "pids", "cpu", "cpuset")),
    problem="cgroup v1 (hybrid) host",
)


def inputs(groups: Cgroups, limits: Limits, uid: int = 0, **fields: object) -> Inputs:
    """Return what a run with these limits is planned from."""
    facts = Facts(
        uid=uid,
        root=uid == 0,
        gid=uid,
        machine="x86_64",
        release="6.6.0",
        last_cap=40,
        cgroups=groups,
        masked=(),
        read_only=(),
        cpus=2,
    )
    spec = Spec(image="x", args=("true",), limits=limits, **fields)  # type: ignore[arg-type]
    return Inputs(spec=spec, facts=facts, image=Image("x", "sha256:0", ("/s/layers/a",)), dirs=Dirs("/s", "/r"))


def written(groups: Cgroups, **limits: object) -> dict[str, str]:
    """Return file -> value of the limits that a run writes."""
    steps = cgroup.prepare(inputs(groups, Limits(**limits)))  # type: ignore[arg-type]
    return {step.path: step.value for step in steps if isinstance(step, SetLimit)}


OURS = "/cg/pybox-CONTAINER-ID"


@pytest.mark.parametrize(
    ("limits", "values"),
    [
        ({"memory": 64 << 20}, {"memory.max": "67108864", "memory.swap.max": "67108864"}),
        ({"memory": 64 << 20, "memory_swap": 64 << 20}, {"memory.max": "67108864", "memory.swap.max": "0"}),
        ({"memory": 64 << 20, "memory_swap": 96 << 20}, {"memory.max": "67108864", "memory.swap.max": "33554432"}),
        ({"memory": 64 << 20, "memory_swap": -1}, {"memory.max": "67108864", "memory.swap.max": "max"}),
        ({"cpus": 0.5}, {"cpu.max": "50000 100000"}),
        ({"cpus": 2.5}, {"cpu.max": "250000 100000"}),
        ({"cpus": 0.01}, {"cpu.max": "1000 100000"}),
        ({"cpu_shares": 1024}, {"cpu.weight": "39"}),
        ({"cpu_shares": 2}, {"cpu.weight": "1"}),
        ({"cpu_shares": 262144}, {"cpu.weight": "10000"}),
        ({"cpuset_cpus": "0-1,3"}, {"cpuset.cpus": "0-1,3"}),
        ({"pids": 20}, {"pids.max": "20"}),
        ({}, {}),
    ],
)
def test_the_values_on_cgroup_v2(limits: dict[str, object], values: dict[str, str]) -> None:
    assert written(V2, **limits) == {f"{OURS}/{name}": value for name, value in values.items()}


@pytest.mark.parametrize(
    ("limits", "values"),
    [
        (
            {"memory": 64 << 20},
            {"memory/own#memory.limit_in_bytes": "67108864", "memory/own#memory.memsw.limit_in_bytes": "134217728"},
        ),
        (
            {"memory": 64 << 20, "memory_swap": -1},
            {"memory/own#memory.limit_in_bytes": "67108864", "memory/own#memory.memsw.limit_in_bytes": "-1"},
        ),
        ({"cpus": 0.5}, {"cpu/own#cpu.cfs_period_us": "100000", "cpu/own#cpu.cfs_quota_us": "50000"}),
        ({"cpu_shares": 512}, {"cpu/own#cpu.shares": "512"}),
        ({"pids": 20}, {"pids/own#pids.max": "20"}),
        ({"cpuset_cpus": "0-1"}, {"cpuset/own#cpuset.mems": "0", "cpuset/own#cpuset.cpus": "0-1"}),
    ],
)
def test_the_values_on_cgroup_v1(limits: dict[str, object], values: dict[str, str]) -> None:
    wanted = {"/cg/" + name.replace("#", "/pybox-CONTAINER-ID/"): value for name, value in values.items()}
    assert written(V1, **limits) == wanted


@pytest.mark.parametrize("groups", [V1, V2], ids=["v1", "v2"])
def test_memory_is_written_before_memory_and_swap_and_nodes_before_cpus(groups: Cgroups) -> None:
    order = [path.rsplit("/", 1)[-1] for path in written(groups, memory=1 << 20, cpuset_cpus="0")]
    assert order in (
        ["memory.max", "memory.swap.max", "cpuset.cpus"],
        ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpuset.mems", "cpuset.cpus"],
    )


@pytest.mark.parametrize("groups", [V1, V2], ids=["v1", "v2"])
def test_on_a_host_without_swap_it_is_limited_only_when_asked_and_may_be_missing(groups: Cgroups) -> None:
    dry = groups.replace(swap=False)
    assert len(written(dry, memory=1 << 20)) == 1
    steps = [
        step for step in cgroup.prepare(inputs(dry, Limits(memory=1 << 20, memory_swap=2 << 20))) if isinstance(step, SetLimit)
    ]
    assert [step.optional for step in steps] == [False, True]


def test_v2_has_one_group_made_after_its_controllers_are_enabled() -> None:
    first, second, *_ = steps = list(cgroup.prepare(inputs(V2, Limits(memory=1 << 20, pids=5))))
    assert (first, second) == (EnableControllers("/cg", ("memory", "pids")), MakeGroup(OURS, "cgroup"))
    assert sum(isinstance(step, MakeGroup) for step in steps) == 1
    assert list(cgroup.steps(inputs(V2, Limits(memory=1 << 20)))) == []  # born in it


def test_a_plain_user_steps_aside_in_the_delegated_group() -> None:
    first = next(iter(cgroup.prepare(inputs(V2, Limits(pids=5), uid=1000))))
    assert isinstance(first, EnableControllers) and first.step_aside


def test_v1_has_one_group_for_each_controller_joined_by_the_child() -> None:
    given = inputs(V1, Limits(memory=1 << 20, cpus=1.0, cpu_shares=100, oom_score_adj=7))
    made = [step.path for step in cgroup.prepare(given) if isinstance(step, MakeGroup)]
    assert made == ["/cg/memory/own/pybox-CONTAINER-ID", "/cg/cpu/own/pybox-CONTAINER-ID"]
    assert list(cgroup.steps(given)) == [JoinGroup("memory", made[0]), JoinGroup("cpu", made[1]), SetOomScore(7)]


def test_a_hybrid_hosts_cgroup2_group_is_given_no_limit() -> None:
    given = inputs(V1, Limits(memory=1 << 20, pids=5), pid="host")
    made = [step.path for step in cgroup.prepare(given) if isinstance(step, MakeGroup)]
    assert made[0] == "/cg/unified/pybox-CONTAINER-ID" and len(made) == 3
    assert not any(step.path.startswith(made[0]) for step in cgroup.prepare(given) if isinstance(step, SetLimit))


@pytest.mark.parametrize("groups", [V1, V2], ids=["v1", "v2"])
def test_no_limit_no_group(groups: Cgroups) -> None:
    assert list(cgroup.prepare(inputs(groups, Limits()))) == [] == list(cgroup.groups(inputs(groups, Limits())))


@pytest.mark.parametrize("groups", [V1, V2], ids=["v1", "v2"])
def test_the_hosts_processes_are_shared_only_with_a_cgroup2_group_to_end_it_by(groups: Cgroups) -> None:
    found = cgroup.groups(inputs(groups, Limits(), pid="host"))
    assert found == (("", f"{groups.unified}/pybox-CONTAINER-ID"),)
    with pytest.raises(LimitError, match=r"^--pid host needs a cgroup2 group: none here$"):
        cgroup.groups(inputs(Cgroups(problem="none here"), Limits(), pid="host"))


@pytest.mark.parametrize(("groups", "how"), [(V1, "cgroup v1"), (V2, "cgroup v2")], ids=["v1", "v2"])
def test_what_enforces_each_limit_is_told(groups: Cgroups, how: str) -> None:
    given = inputs(groups, Limits(memory=1 << 20, pids=5, cpus=1.0, cpu_shares=5, cpuset_cpus="0"))
    wanted = ("--memory", "--pids-limit", "--cpus", "--cpu-shares", "--cpuset-cpus")
    assert cgroup.effective(given) == tuple((option, how) for option in wanted)


NOT_DELEGATED = Cgroups(problem="/cg/u is not delegated to uid 1000", fix="run it through: systemd-run")


def test_a_limit_that_can_not_be_enforced_is_refused_with_cause_and_fix() -> None:
    with pytest.raises(LimitError) as caught:
        cgroup.effective(inputs(NOT_DELEGATED, Limits(pids=5), uid=1000))
    assert caught.value.message == "cannot enforce --pids-limit: /cg/u is not delegated to uid 1000"
    assert caught.value.hint == "run it through: systemd-run; --best-effort runs without the limit"


def test_a_controller_that_is_not_there_is_named() -> None:
    with pytest.raises(LimitError) as caught:
        cgroup.effective(inputs(V2.replace(controllers=frozenset({"pids"})), Limits(pids=5, memory=1 << 20)))
    assert caught.value.message == "cannot enforce --memory: the controller memory is not available below /cg"
    assert caught.value.hint == "`pybox doctor` says what this host can limit; --best-effort runs without the limit"


def test_best_effort_drops_what_it_must_says_so_and_keeps_the_rest() -> None:
    given = inputs(V2.replace(controllers=frozenset({"pids"})), Limits(pids=5, memory=1 << 20), best_effort=True)
    assert cgroup.effective(given) == (
        ("--memory", "none: the controller memory is not available below /cg"),
        ("--pids-limit", "cgroup v2"),
    )
    assert [step.path for step in cgroup.prepare(given) if isinstance(step, SetLimit)] == [f"{OURS}/pids.max"]
    nothing = inputs(NOT_DELEGATED, Limits(pids=5), uid=1000, best_effort=True)
    assert list(cgroup.prepare(nothing)) == []


def test_a_limit_that_the_kernel_refuses_is_an_error_or_with_best_effort_a_note(tmp_path: Path) -> None:
    desk = Desk("0123456789ab", {})
    path = f"{tmp_path}/pids.max"
    with pytest.raises(LimitError) as caught:
        SetLimit(path, "5", "--pids-limit").apply(desk)
    assert caught.value.message == f"cannot enforce --pids-limit: write 5 to {path}: this kernel has no such limit"
    SetLimit(path, "5", "--pids-limit", best_effort=True).apply(desk)
    assert desk.dropped == {"--pids-limit": "this kernel has no such limit"}
    SetLimit(path, "5", "--memory-swap", optional=True).apply(desk)
    assert list(tmp_path.iterdir()) == []


def test_a_limit_is_written_with_the_id_in_its_path(tmp_path: Path) -> None:
    (tmp_path / "pybox-0123456789ab").mkdir()
    (tmp_path / "pybox-0123456789ab" / "pids.max").write_text("")
    SetLimit(f"{tmp_path}/pybox-CONTAINER-ID/pids.max", "5", "--pids-limit").apply(Desk("0123456789ab", {}))
    assert (tmp_path / "pybox-0123456789ab" / "pids.max").read_text() == "5"


def write(folder: Path, files: dict[str, str]) -> None:
    """Write the files of control groups."""
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def test_the_bill_of_a_cgroup_v2_run(tmp_path: Path) -> None:
    files = {
        "memory.peak": "4096000\n",
        "memory.events": "low 0\nhigh 0\nmax 7\noom 1\noom_kill 2\noom_group_kill 0\n",
        "pids.events": "max 3\n",
        "cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 4\nthrottled_usec 1\n",
    }
    write(tmp_path, files)
    cost = bill((("", str(tmp_path)),))
    assert cost == Bill(4096000, 2, (("memory", 7), ("pids", 3), ("cpu", 4)))


def test_the_bill_of_a_cgroup_v1_run(tmp_path: Path) -> None:
    files = {
        "memory/memory.max_usage_in_bytes": "4096000\n",
        "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        "memory/memory.failcnt": "7\n",
        "pids/pids.events": "max 3\n",
        "cpu/cpu.stat": "nr_periods 9\nnr_throttled 0\nthrottled_time 0\n",
    }
    write(tmp_path, files)
    cost = bill(tuple((name, f"{tmp_path}/{name}") for name in ("memory", "pids", "cpu")))
    assert cost == Bill(4096000, 1, (("memory", 7), ("pids", 3)))


@pytest.mark.parametrize("controller", ["", "memory"])
def test_a_group_that_counted_nothing_is_no_bill_and_no_error(controller: str, tmp_path: Path) -> None:
    assert bill(((controller, f"{tmp_path}/gone"),)) == Bill() == bill(())


def test_the_bill_has_the_devices_the_processes_and_the_waiting(tmp_path: Path) -> None:
    files = {
        "io.stat": "8:0 rbytes=100 wbytes=7 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=11 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n",
        "pids.peak": "5\n",
        "cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n",
        "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    }
    write(tmp_path, files)
    cost = bill((("", str(tmp_path)),))
    assert (cost.io_read, cost.io_written, cost.pids_peak, cost.stall) == (111, 7, 5, (("cpu", 1.5), ("memory", 0.0)))
    assert bill((("", str(tmp_path)),), stalls=False) == Bill(pids_peak=5)
    assert Bill(pids_peak=5).with_usage(9, (1, 2)) == {
        **{name: value for name, value in Bill(9, 0, (), 1, 2, 5).items() if name != "oom_kills"}
    }
