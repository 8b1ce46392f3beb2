"""What lies in the state directory is never believed: records that are cut or forged, strangers, and what can't be cleaned up."""

# ruff: noqa: F811

from __future__ import annotations

import json
import os
import posix
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_state import alive, dirs, ended, keep, killed, listed, no_fd_is_left, removed, state_claim, statuses  # noqa: F401

from pybox import burial, fastjson, kept, listing, state
from pybox.cli import containers
from pybox.dirs import Dirs, ensure
from pybox.errors import PyboxError, StateError


@pytest.mark.parametrize("file", ["journal", "result"])
@pytest.mark.parametrize("owner", ["living", "ended", "killed"])
def test_a_record_cut_anywhere_breaks_no_command(dirs: Dirs, file: str, owner: str, capsys: pytest.CaptureFixture[str]) -> None:
    taken = alive(dirs, "web", 5)
    if owner == "ended":
        keep(dirs, taken.identity, "web")
    if owner != "living":
        os.close(taken.lock)
    path = Path(taken.path if file == "journal" else kept.folder(dirs, taken.identity), file)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.read_bytes() if path.exists() else b'{"reason": "exit", "exit_code": 0}'
    for cut in range(0, len(whole), 5):
        path.write_bytes(whole[:cut])
        listed(dirs, capsys)
        assert listing.layers_in_use(dirs) == frozenset()
    path.write_bytes(b"\xff\0garbage")
    listed(dirs, capsys)
    if owner == "living":
        assert state.sweep(dirs) == []
        path.unlink()
        state.release(taken)
    else:
        state.sweep(dirs)
        if statuses(dirs):
            removed(dirs, taken.identity)
    assert [name for name in os.listdir(dirs.state) if state.is_id(name)] == []


JSON = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)


@given(
    journal=st.dictionaries(st.sampled_from(["image", "args", "created", "layers", "name"]), JSON),
    result=JSON | st.just({"reason": 5}),
)
def test_whatever_a_record_says_ps_lists_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], journal: dict[str, fastjson.Json], result: fastjson.Json
) -> None:
    dirs = Dirs(f"{tmp_path}/store", f"{tmp_path}/state")
    taken = state.claim(dirs)
    os.close(state.open_journal(taken, journal))
    keep(dirs, taken.identity)
    kept.end(dirs, taken.identity, result)
    try:
        assert taken.identity in listed(dirs, capsys)
        assert containers.inspect(dirs, [taken.identity]) == 0
        assert json.loads(capsys.readouterr().out)[0]["id"] == taken.identity
    finally:
        state.release(taken)


def test_strangers_in_the_directory_are_left_alone(dirs: Dirs) -> None:
    ensure(f"{dirs.store}/names")
    for name in ("README", "ABCDEFABCDEF", "0123456789abc"):
        Path(dirs.state, name).mkdir(parents=True)
    Path(dirs.store, "names", "plain-file").write_text("")
    assert listing.entries(dirs) == [] and state.sweep(dirs) == []
    assert set(os.listdir(dirs.state)) == {"README", "ABCDEFABCDEF", "0123456789abc"}


def test_a_state_directory_of_a_stranger_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix, "geteuid", lambda: os.stat(tmp_path).st_uid + 1)
    with pytest.raises(PyboxError, match=rf"^{tmp_path}: owned by uid \d+$"):
        ensure(str(tmp_path))


LATER: list[list[fastjson.Json]] = [[["verb-of-tomorrow", "/x"]], [["tree"]], ["tree"], [[]]]  # type: ignore[list-item]


@pytest.mark.parametrize("leaves", [*LATER, {"tree": "/x"}, None], ids=repr)
def test_a_journal_of_another_version_does_not_stop_every_command(dirs: Dirs, leaves: fastjson.Json) -> None:
    dead, other = killed(dirs, leaves=leaves), killed(dirs)
    try:
        state.sweep(dirs)
    except (OSError, PyboxError):
        pass
    assert other not in os.listdir(dirs.state) and dead


def test_one_that_can_not_be_cleaned_up_does_not_keep_the_others(dirs: Dirs, monkeypatch: pytest.MonkeyPatch) -> None:
    def undo(verb: str, path: str) -> None:
        if verb == "group":
            raise OSError(16, "Device or resource busy", path)

    monkeypatch.setattr(burial, "undo", undo)
    stuck = [killed(dirs, leaves=[["group", "/cg/busy"]]) for _ in range(2)]
    others = [killed(dirs) for _ in range(6)]
    done = state.sweep(dirs)
    assert set(os.listdir(dirs.state)) == set(stuck) and len(done) >= len(others)


def test_somebody_elses_leftover_does_not_fail_a_python_run(dirs: Dirs, monkeypatch: pytest.MonkeyPatch) -> None:
    from pybox import api

    def sweep(where: Dirs) -> list[str]:
        raise OSError(16, "Device or resource busy", "/cg/busy")

    monkeypatch.setattr(api.dirs, "current", lambda: dirs)
    monkeypatch.setattr(state, "sweep", sweep)
    assert api._Shared().runtime().dirs == dirs


def test_a_name_left_over_is_taken_over_by_one_only(dirs: Dirs, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(f"{dirs.store}/names")
    os.symlink("0123456789ab", f"{dirs.store}/names/web")
    claims: list[state.Claim] = []

    def attempt() -> None:
        try:
            claims.append(state.claim(dirs, "web"))
        except StateError:
            pass

    rival = Thread(target=attempt)
    unlink = os.unlink

    def after_a_rival(path: str, **kwargs: int) -> None:
        if path.endswith("/names/web") and rival.ident is None:
            rival.start()  # between our look and our removal
            rival.join(0.3)  # who waits for a lock that we hold comes later
        unlink(path, **kwargs)

    monkeypatch.setattr(state.os, "unlink", after_a_rival)
    attempt()
    rival.join()
    monkeypatch.undo()
    for one in claims:
        state.release(one)
    assert len(claims) == 1


def test_a_name_freed_while_it_is_looked_at_is_taken(dirs: Dirs, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = alive(dirs, "web")
    readlink, freed = os.readlink, []

    def first_freed(path: str, **kwargs: int) -> str:
        if path.endswith("/names/web") and not freed:
            freed.append(path)
            os.unlink(path)
            state.release(holder)
        return readlink(path, **kwargs)

    monkeypatch.setattr(state.os, "readlink", first_freed)
    claims = []
    monkeypatch.setattr(state, "Claim", lambda *fields: claims.append(state_claim(*fields)) or claims[-1])
    try:
        taken = state.claim(dirs, "web")
        assert readlink(f"{dirs.store}/names/web") == taken.identity
    finally:
        for one in claims:
            state.release(one)
