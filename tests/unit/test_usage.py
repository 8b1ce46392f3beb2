"""The accounts of control groups: cgroup v2, v1 and hybrid ones, and the files that are not there. Unknown is never 0."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybox.kernel.usage import Account, account, between

V2 = {
    "cpu.stat": "usage_usec 1500000\nuser_usec 1\nsystem_usec 1\nnr_periods 20\nnr_throttled 5\nthrottled_usec 9\n",
    "cpu.max": "50000 100000\n",
    "memory.current": "4096\n",
    "memory.peak": "8192\n",
    "memory.max": "65536\n",
    "pids.current": "3\n",
    "pids.max": "20\n",
    "io.stat": "8:0 rbytes=100 wbytes=7 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=2 rios=1 wios=1\n",
    "cpu.pressure": "some avg10=1.50 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "memory.pressure": "some avg10=0.25 avg60=0.00 avg300=0.00 total=0\n",
    "io.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
}
V1 = {
    "memory": {
        "memory.usage_in_bytes": "4096\n",
        "memory.max_usage_in_bytes": "8192\n",
        "memory.limit_in_bytes": "65536\n",
    },
    "pids": {"pids.current": "3\n", "pids.max": "20\n"},
    "cpu": {"cpu.stat": "nr_periods 20\nnr_throttled 5\n", "cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"},
    "cpuacct": {"cpuacct.usage": "1500000000\n"},
    "blkio": {
        "blkio.throttle.io_service_bytes": "8:0 Read 100\n8:0 Write 7\n8:0 Total 107\n8:16 Read 1\n8:16 Write 2\nTotal 110\n"
    },
}
COUNTED = {
    "cpu": 1.5,
    "cpus": 0.5,
    "periods": 20,
    "throttled": 5,
    "memory": 4096,
    "memory_peak": 8192,
    "memory_limit": 65536,
    "pids": 3,
    "pids_limit": 20,
    "read": 101,
    "written": 9,
}
PRESSURE = {"cpu_pressure": 1.5, "memory_pressure": 0.25, "io_pressure": 0.0}


def made(place: Path, files: dict[str, str]) -> str:
    """Make a fake control group."""
    place.mkdir(parents=True)
    for name, text in files.items():
        (place / name).write_text(text)
    return str(place)


def counted(*groups: tuple[str, str]) -> dict[str, object]:
    """Return what is known, without the time of the reading."""
    return {name: value for name, value in account(groups).items() if value is not None and name != "at"}


def test_a_cgroup_v2_group_has_all_accounts(tmp_path: Path) -> None:
    assert counted(("", made(tmp_path / "g", V2))) == COUNTED | PRESSURE


def test_v1_groups_have_them_together_but_for_the_pressure(tmp_path: Path) -> None:
    assert counted(*((name, made(tmp_path / name, files)) for name, files in V1.items())) == COUNTED


def test_on_a_hybrid_host_time_and_pressure_are_the_cgroup2_groups(tmp_path: Path) -> None:
    unified = made(tmp_path / "u", {name: V2[name] for name in ("cpu.pressure", "memory.pressure", "io.pressure")})
    Path(unified, "cpu.stat").write_text("usage_usec 1500000\n")
    rest = [(name, made(tmp_path / name, V1[name])) for name in ("memory", "pids", "cpu")]
    wanted = {name: value for name, value in COUNTED.items() if name not in ("read", "written")}
    assert counted(("", unified), *rest) == wanted | PRESSURE


@pytest.mark.parametrize("controller", ["", "memory", "pids", "cpu", "cpuacct", "blkio"])
def test_what_no_group_counts_is_unknown_and_not_nothing(controller: str, tmp_path: Path) -> None:
    assert counted() == {} == counted((controller, f"{tmp_path}/gone")) == counted((controller, made(tmp_path / "empty", {})))


def test_no_limit_is_none_where_the_usage_is_known(tmp_path: Path) -> None:
    v2 = made(tmp_path / "v2", V2 | {"memory.max": "max\n", "pids.max": "max\n", "cpu.max": "max 100000\n"})
    memory = made(tmp_path / "v1", V1["memory"] | {"memory.limit_in_bytes": "9223372036854771712\n"})
    for found in (account((("", v2),)), account((("memory", memory),))):
        assert found.memory == 4096 and found.memory_limit is None
    found = account((("", v2),))
    assert (found.pids, found.pids_limit, found.cpus, found.periods, found.throttled) == (3, None, None, None, None)


def test_an_account_of_io_without_an_entry_is_nothing_read(tmp_path: Path) -> None:
    assert counted(("", made(tmp_path / "g", {"io.stat": ""}))) == {"read": 0, "written": 0}


def test_what_is_no_number_is_not_believed(tmp_path: Path) -> None:
    assert (
        counted(
            (
                "",
                made(
                    tmp_path / "g",
                    {"memory.current": "x\n", "cpu.stat": "usage_usec\n\nnr_periods x\n", "cpu.pressure": "some\n"},
                ),
            )
        )
        == {}
    )


def test_two_readings_give_shares_of_the_time_between_them() -> None:
    usage = between(Account(at=10.0, cpu=1.0, periods=10, throttled=2), Account(at=12.0, cpu=1.5, periods=30, throttled=12))
    assert (usage.cpu_percent, usage.throttled_percent) == (25.0, 50.0)
    still = between(usage.account, usage.account.replace(at=13.0))
    assert (still.cpu_percent, still.throttled_percent) == (0.0, 0.0)


def test_shares_of_the_unknown_are_unknown() -> None:
    usage = between(Account(at=1.0), Account(at=2.0, cpu=3.0))
    assert (usage.cpu_percent, usage.throttled_percent) == (None, None)
    assert between(Account(at=1.0, cpu=1.0), Account(at=1.0, cpu=1.0)).cpu_percent is None


def test_json_has_null_for_the_unknown() -> None:
    shown = between(Account(), Account(at=1.0, memory=5)).to_json()
    assert shown["memory"] == 5 and shown["memory_limit"] is None and shown["cpu_percent"] is None and "at" not in shown
