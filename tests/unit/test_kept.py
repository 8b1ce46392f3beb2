"""A kept container: written and read back the same, whole or absent, locked by one command at a time."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybox import burial, fastjson, kept, listing, specjson, state
from pybox import monitor as looked_after
from pybox.cli.background import parse_policy
from pybox.dirs import Dirs
from pybox.errors import PyboxError, SpecError, StateError
from pybox.kept import Health, Kept
from pybox.result import Result
from pybox.spec import Limits, Mount, Rlimit, Spec

WORD = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=8) | st.sampled_from(
    ["", "ä\n", "\udcff", "--", '"', "\\"]
)
LIMITS = st.builds(
    Limits,
    memory=st.none() | st.integers(1 << 20, 1 << 50),
    cpus=st.none() | st.floats(0.01, 100),
    pids=st.none() | st.integers(1, 1 << 22),
    oom_score_adj=st.none() | st.integers(-1000, 1000),
)
MOUNTS = st.lists(
    st.builds(
        lambda n, source, ro: Mount(f"/m{n}", source=source, read_only=ro),
        st.integers(),
        st.none() | st.just("/etc"),
        st.booleans(),
    ),
    max_size=3,
    unique_by=lambda mount: mount.target,
).map(tuple)
SPECS = st.builds(
    Spec,
    image=st.sampled_from(["busybox", "a/b:c"]),
    args=st.lists(WORD, max_size=3).map(tuple),
    entrypoint=st.none() | st.lists(WORD, max_size=2).map(tuple),
    env=st.lists(st.tuples(st.sampled_from(["A", "ä", "B_"]), WORD), max_size=3).map(tuple),
    limits=LIMITS,
    mounts=MOUNTS,
    rlimits=st.lists(st.builds(lambda soft: Rlimit("nofile", soft, -1), st.integers(0, 99)), max_size=2).map(tuple),
    read_only=st.booleans(),
    tty=st.booleans(),
    init=st.booleans(),
    cap_drop=st.sampled_from([(), ("ALL",), ("CAP_NET_RAW", "CAP_KILL")]),
)
KEPT = st.builds(
    Kept,
    identity=st.just("0123456789ab"),
    spec=SPECS,
    layers=st.lists(st.just("/s/a"), max_size=2).map(tuple),
    name=st.sampled_from(["", "web"]),
    created=st.floats(0, 1e12),
    remove=st.booleans(),
    restart=st.sampled_from(["no", "always", "on-failure:3"]),
    timeout=st.none() | st.floats(0.1, 1e6),
    health=st.none() | st.builds(Health, command=st.lists(WORD, min_size=1, max_size=2).map(tuple), retries=st.integers(1, 9)),
    labels=st.lists(st.tuples(WORD, WORD), max_size=2).map(tuple),
)


@pytest.fixture
def dirs(tmp_path: Path) -> Dirs:
    return Dirs(f"{tmp_path}/store", f"{tmp_path}/state")


@given(what=KEPT)
def test_a_config_is_read_back_as_it_was_written(what: Kept) -> None:
    assert kept.from_json(fastjson.loads(fastjson.dumps(what.to_json()))) == what


@given(spec=SPECS)
def test_a_spec_is_read_back_as_it_was_written(spec: Spec) -> None:
    assert specjson.from_json(fastjson.loads(fastjson.dumps(specjson.to_json(spec)))) == spec


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["image", "args", "memory", "target"]), inner, max_size=3)
    ),
)


@given(key=st.sampled_from([*Kept._fields, "schema", "nonsense"]), value=JSON)
def test_a_config_of_another_version_is_refused_in_one_line(key: str, value: fastjson.Json) -> None:
    good = Kept("0123456789ab", Spec(image="busybox")).to_json()
    try:
        assert isinstance(kept.from_json({**good, key: value}), Kept)
    except PyboxError as error:
        assert "\n" not in error.message


def made(dirs: Dirs, **more: object) -> Kept:
    what = Kept(state.new_id(), Spec(image="busybox", args=("true",)), created=1.0, **more)  # type: ignore[arg-type]
    os.close(kept.make(dirs, what.identity))
    kept.write(dirs, what)
    return what


def status(dirs: Dirs, identity: str) -> str | None:
    entry = listing.load(dirs, identity, "")
    return None if entry is None else entry.status


def test_the_life_of_one_that_is_kept(dirs: Dirs) -> None:
    identity = state.new_id()
    os.close(kept.make(dirs, identity))
    assert status(dirs, identity) is None and listing.entries(dirs) == []  # without a config it is none
    kept.write(dirs, Kept(identity, Spec(image="busybox")))
    assert status(dirs, identity) == "created"
    claim = state.claim_again(dirs, identity)
    assert status(dirs, identity) == "created"
    kept.begin(dirs, identity, 100)
    os.write(state.open_journal(claim, {"leaves": [], "kept": True}), b"77")
    assert status(dirs, identity) == "running"
    with pytest.raises(StateError, match="is running"):
        state.claim_again(dirs, identity)
    kept.end(dirs, identity, {"exit_code": 3})
    state.release(claim)
    assert status(dirs, identity) == "exited" and kept.result(dirs, identity) == {"exit_code": 3}
    os.close(kept.lock(dirs, identity))
    burial.forget(dirs, identity, "")
    assert status(dirs, identity) is None
    with pytest.raises(StateError, match="was just removed"):
        kept.lock(dirs, identity)


def test_after_a_power_cut_it_is_lost_and_gc_writes_that_down(dirs: Dirs) -> None:
    what = made(dirs, name="web")
    kept.begin(dirs, what.identity, 100)
    entry = listing.load(dirs, what.identity, "")
    assert entry is not None and entry.status == "exited" and (entry.result or {})["reason"] == "lost"
    assert (entry.journal["image"], entry.journal["args"], entry.name) == ("busybox", ["true"], "web")
    assert burial.mend(dirs) == [
        f"{what.identity}: the machine went down while it ran; kept as it is",
        f"{what.identity}: gave it its name web again",
    ]
    assert burial.mend(dirs) == [] and listing.find(dirs, "web").result == entry.result


def test_the_result_fits_into_the_room_that_was_taken_for_it(dirs: Dirs) -> None:
    what = made(dirs)
    kept.begin(dirs, what.identity, kept.ROOM)
    path = Path(kept.folder(dirs, what.identity))
    before = os.stat(path / "running")
    kept.end(dirs, what.identity, Result(what.identity, "busybox", ("true",), "exit", 0, error="x" * 1000).to_json())
    after = os.stat(path / "result")
    assert (before.st_ino, before.st_size) == (after.st_ino, kept.ROOM) and after.st_size < kept.ROOM


def test_one_command_has_the_lock_and_another_waits_for_it(dirs: Dirs) -> None:
    what = made(dirs)
    first = kept.lock(dirs, what.identity)
    with pytest.raises(StateError, match="is busy with another command"):
        kept.lock(dirs, what.identity, 0.05)
    found: list[int] = []
    waiting = Thread(target=lambda: found.append(kept.lock(dirs, what.identity)))
    waiting.start()
    os.close(first)
    waiting.join(20)
    os.close(found[0])


def test_a_lock_is_not_had_on_a_folder_that_was_removed_and_made_again(dirs: Dirs) -> None:
    what = made(dirs)
    first = kept.lock(dirs, what.identity)
    burial.forget(dirs, what.identity, "")
    os.close(kept.make(dirs, what.identity))
    os.close(kept.lock(dirs, what.identity, 0))  # the new one's, which nobody has
    os.close(first)


@pytest.mark.parametrize(
    ("policy", "code", "restarts", "stopped", "again"),
    [
        ("no", 1, 0, False, False),
        ("always", 0, 99, False, True),
        ("always", 0, 0, True, False),
        ("unless-stopped", 0, 0, False, True),
        ("unless-stopped", 1, 0, True, False),
        ("on-failure", 0, 0, False, False),
        ("on-failure", 1, 99, False, True),
        ("on-failure:2", 1, 1, False, True),
        ("on-failure:2", 1, 2, False, False),
        ("on-failure:2", 1, 0, True, False),
    ],
)
def test_what_is_started_again(dirs: Dirs, policy: str, code: int, restarts: int, stopped: bool, again: bool) -> None:
    what = made(dirs, restart=policy)
    os.makedirs(f"{dirs.state}/{what.identity}")
    Path(dirs.state, what.identity, "restarts").write_text(str(restarts))
    kept.mark_stopped(dirs, what.identity, stopped)
    assert looked_after._wants_restart(dirs, what, Result(what.identity, "busybox", (), "exit", code)) == again


@pytest.mark.parametrize(
    "text",
    ["", "On-failure", "always:3", "on-failure:", "on-failure:0", "on-failure:x", "on-failure:-1", "on-failure:1:2", "no:1"],
)
def test_a_policy_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_policy(text)


@pytest.mark.parametrize("text", ["no", "always", "unless-stopped", "on-failure", "on-failure:5"])
def test_a_policy_is_taken(text: str) -> None:
    assert parse_policy(text) == text
