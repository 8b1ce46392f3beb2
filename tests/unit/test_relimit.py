"""New limits for a running container: all of them or none, in an order that the kernel takes, and never a silent kill."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_cgroup import V1, V2, inputs

from pybox.errors import LimitError
from pybox.host import Facts
from pybox.kernel import relimit
from pybox.spec import Limits

MIB = 1 << 20


def facts(v2: bool = True) -> Facts:
    return inputs(V2 if v2 else V1, Limits()).facts


def group(place: Path, **files: str) -> str:
    place.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (place / name.replace("__", ".")).write_text(text)
    return str(place)


def names(changes: tuple[relimit.Change, ...]) -> list[str]:
    return [change.path.rsplit("/", 1)[-1] for change in changes]


def test_the_files_are_those_of_the_start(tmp_path: Path) -> None:
    path = group(tmp_path, memory__max="9", memory__swap__max="9", pids__max="9", cpu__max="max 100000")
    limits = Limits(memory=64 * MIB, pids=7, cpus=0.5)
    relimit.apply((("", path),), limits, facts())
    assert (tmp_path / "memory.max").read_text() == "67108864"
    assert (tmp_path / "pids.max").read_text() == "7"
    assert (tmp_path / "cpu.max").read_text().startswith("50000 100000")


def test_a_controller_without_a_group_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = group(tmp_path, pids__max="9")
    with pytest.raises(LimitError, match="cannot change --memory: the container has no control group with the controller memory"):
        relimit.apply((("pids", path),), Limits(pids=3, memory=MIB), facts(v2=False))
    assert (tmp_path / "pids.max").read_text() == "9"


def test_a_hybrid_hosts_cgroup2_group_takes_no_limit(tmp_path: Path) -> None:
    groups = (("", group(tmp_path / "u", cgroup__freeze="0")), ("pids", group(tmp_path / "p", pids__max="9")))
    assert names(relimit.changes(groups, Limits(pids=3), facts(v2=False))) == ["pids.max"]
    with pytest.raises(LimitError):
        relimit.changes(groups, Limits(cpus=1.0), facts(v2=False))


@pytest.mark.parametrize(
    ("together", "order"),
    [
        (str(32 * MIB), ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"]),
        (str(512 * MIB), ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]),
    ],
)
def test_of_v1s_two_memory_limits_the_smaller_stays_the_smaller(together: str, order: list[str], tmp_path: Path) -> None:
    path = group(tmp_path, memory__limit_in_bytes="1", memory__memsw__limit_in_bytes=together)
    assert names(relimit.changes((("memory", path),), Limits(memory=64 * MIB), facts(v2=False))) == order


def test_memory_above_memory_and_swap_says_what_to_give(tmp_path: Path) -> None:
    path = group(tmp_path, memory__limit_in_bytes="1", memory__memsw__limit_in_bytes=str(MIB))
    given = facts(v2=False)
    dry = given.replace(cgroups=given.cgroups.replace(swap=False))
    with pytest.raises(LimitError) as caught:
        relimit.changes((("memory", path),), Limits(memory=64 * MIB), dry)
    assert caught.value.hint == "give --memory-swap too"


def test_v2_memory_below_what_is_in_use_is_refused_where_the_kernel_would_kill(tmp_path: Path) -> None:
    path = group(tmp_path, memory__max="99999999", memory__stat=f"anon {8 * MIB}\nshmem 5\nfile 9\n", pids__max="9")
    with pytest.raises(LimitError, match=f"cannot lower --memory to {MIB}: {8 * MIB + 5} bytes are in use"):
        relimit.apply((("", path),), Limits(memory=MIB, pids=4), facts())
    assert ((tmp_path / "memory.max").read_text(), (tmp_path / "pids.max").read_text()) == ("99999999", "9")


def test_what_was_written_before_a_refusal_is_written_back(tmp_path: Path) -> None:
    memory, pids = group(tmp_path / "m", memory__limit_in_bytes="77"), tmp_path / "p"
    (pids / "pids.max").mkdir(parents=True)  # can't be written to
    with pytest.raises(LimitError) as caught:
        relimit.apply((("memory", memory), ("pids", str(pids))), Limits(memory=MIB, memory_swap=-1, pids=4), facts(v2=False))
    assert "cannot change --pids-limit: write 4 to" in caught.value.message
    assert Path(memory, "memory.limit_in_bytes").read_text().startswith("77")
