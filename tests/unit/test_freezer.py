"""The freezer: asked through the right file, and a pause that fails leaves nobody frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pybox.errors import StateError
from pybox.kernel import freezer
from pybox.undo import kill_group

Groups = tuple[tuple[str, str], ...]


def v2(place: Path, frozen: int) -> Groups:
    (place / "cgroup.freeze").write_text("0\n")
    (place / "cgroup.events").write_text(f"populated 1\nfrozen {frozen}\n")
    return (("memory", f"{place}/other"), ("", str(place)))


def v1(place: Path, state: str | int) -> Groups:
    (place / "freezer.state").write_text(f"{state}\n")
    return (("freezer", str(place)),)


def test_the_kernel_alone_says_who_is_frozen(tmp_path: Path) -> None:
    assert freezer.frozen(v2(tmp_path, 1)) and freezer.frozen(v1(tmp_path, "FROZEN"))
    assert not freezer.frozen(v2(tmp_path, 0)) and not freezer.frozen(v1(tmp_path, "FREEZING"))
    assert not freezer.frozen(()) and not freezer.frozen((("", f"{tmp_path}/gone"), ("freezer", f"{tmp_path}/gone")))


def test_cgroup_v2_is_asked_by_cgroup_freeze(tmp_path: Path) -> None:
    freezer.freeze(v2(tmp_path, 1))
    assert (tmp_path / "cgroup.freeze").read_text() == "1\n"  # one byte over the 0
    freezer.thaw(v2(tmp_path, 1))
    assert (tmp_path / "cgroup.freeze").read_text() == "0\n"


def test_the_v1_freezer_is_asked_where_there_is_no_cgroup2_group(tmp_path: Path) -> None:
    freezer.freeze(v1(tmp_path, "FROZEN"))
    assert (tmp_path / "freezer.state").read_text().startswith("FROZEN")
    freezer.thaw(v1(tmp_path, ""))
    assert (tmp_path / "freezer.state").read_text().startswith("THAWED")


@pytest.mark.parametrize("make", [v2, v1])
def test_what_does_not_freeze_in_time_is_let_go_again(
    make: Callable[[Path, int], Groups], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezer, "_is_frozen", lambda *_: False)  # a file that was written says so itself, unlike the kernel's
    groups = make(tmp_path, 0)
    with pytest.raises(StateError, match=r"^not all of its processes stood still within 0 seconds; it goes on$"):
        freezer.freeze(groups, patience=0)
    left = tmp_path / ("cgroup.freeze" if make is v2 else "freezer.state")
    assert left.read_text().startswith("0" if make is v2 else "THAWED")


def test_an_interrupt_while_it_freezes_lets_it_go_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(freezer, "_until_frozen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        freezer.freeze(v2(tmp_path, 0))
    assert (tmp_path / "cgroup.freeze").read_text().startswith("0")


def test_without_a_group_it_is_refused_with_cause_and_fix(tmp_path: Path) -> None:
    with pytest.raises(StateError) as caught:
        freezer.freeze((("memory", str(tmp_path)),))
    assert caught.value.message == "it has no control group that could be frozen" and "-d" in str(caught.value.hint)
    with pytest.raises(StateError, match="not running any more"):
        freezer.freeze((("", f"{tmp_path}/gone"),))
    with pytest.raises(StateError, match="can't be frozen"):
        freezer.freeze((("", str(tmp_path)),))


def test_a_frozen_v1_group_is_thawed_to_be_killed(tmp_path: Path) -> None:
    v1(tmp_path, "FROZEN")
    (tmp_path / "cgroup.procs").write_text("")
    kill_group(str(tmp_path))
    assert (tmp_path / "freezer.state").read_text().startswith("THAWED")
