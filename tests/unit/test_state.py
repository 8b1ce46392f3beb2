"""The record of a container: claimed by one, found by all, swept when its owner is dead, and never believed blindly."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pybox import burial, fastjson, kept, listing, state
from pybox import lifecycle as life
from pybox.cli import containers, lifecycle
from pybox.dirs import Dirs, ensure
from pybox.errors import PyboxError, StateError
from pybox.spec import Spec

JOURNAL: dict[str, fastjson.Json] = {
    "schema": "pybox.container/1",
    "image": "busybox",
    "args": ["true"],
    "created": 1.5,
    "leaves": [],
}
ENDED: dict[str, fastjson.Json] = {"reason": "exit", "exit_code": 3}


@pytest.fixture
def dirs(tmp_path: Path) -> Dirs:
    return Dirs(f"{tmp_path}/store", f"{tmp_path}/state")


@pytest.fixture(autouse=True)
def no_fd_is_left() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


def alive(dirs: Dirs, name: str = "", pid: int | None = None, **more: fastjson.Json) -> state.Claim:
    """Return the claim of a container whose pybox lives: us."""
    taken = state.claim(dirs, name)
    fd = state.open_journal(taken, {**JOURNAL, "name": name, **more})
    if pid is not None:
        os.write(fd, str(pid).encode())
    os.close(fd)
    return taken


def killed(dirs: Dirs, name: str = "", pid: int | None = None, **more: fastjson.Json) -> str:
    """Return the id of a container whose pybox was killed: nobody holds its lock."""
    taken = alive(dirs, name, pid, **more)
    os.close(taken.lock)
    return taken.identity


def ended(dirs: Dirs, name: str = "", **more: fastjson.Json) -> str:
    """Return the id of a container that has ended and is kept."""
    taken = alive(dirs, name, 7, **more)
    keep(dirs, taken.identity, name, **more)
    kept.end(dirs, taken.identity, ENDED)
    state.release(taken)
    return taken.identity


def keep(dirs: Dirs, identity: str, name: str = "", **more: fastjson.Json) -> None:
    """Write down that there is such a kept container, and that it runs."""
    os.close(kept.make(dirs, identity))
    kept.begin(dirs, identity, 100)
    layers = more.get("layers", ())
    kept.write(dirs, kept.Kept(identity, Spec(image="busybox"), layers=tuple(layers), name=name, created=1.5))  # type: ignore[arg-type]


def statuses(dirs: Dirs) -> dict[str, str]:
    """Return id -> status."""
    return {entry.identity: entry.status for entry in listing.entries(dirs)}


def test_where_nothing_ever_ran_there_is_nothing_and_nothing_is_made(dirs: Dirs, tmp_path: Path) -> None:
    assert (listing.entries(dirs), state.sweep(dirs), listing.layers_in_use(dirs)) == ([], [], frozenset())
    assert list(tmp_path.iterdir()) == []


def test_a_claim_is_closed_to_others_and_gone_when_it_is_given_up(dirs: Dirs) -> None:
    taken = state.claim(dirs)
    assert state.is_id(taken.identity) and os.stat(taken.path).st_mode & 0o777 == 0o700
    state.release(taken)
    assert os.listdir(dirs.state) == []


def test_the_status_tells_the_life_of_a_container(dirs: Dirs) -> None:
    made, running = alive(dirs), alive(dirs, pid=77)
    done, dead = ended(dirs), killed(dirs, pid=78)
    assert statuses(dirs) == {made.identity: "created", running.identity: "running", done: "exited", dead: "dead"}
    assert listing.find(dirs, running.identity).pid == 77 and listing.find(dirs, done).result == ENDED
    state.release(made)
    state.release(running)
    assert set(statuses(dirs)) == {done, dead}


def test_what_is_alive_or_kept_is_not_swept_and_what_was_killed_is(dirs: Dirs) -> None:
    living, done, dead = alive(dirs, "living", 1), ended(dirs, "done"), killed(dirs, "dead", 2)
    assert state.sweep(dirs) == [f"{dead}: its pybox was killed; forgotten", "freed the name dead"]
    assert set(statuses(dirs)) == {living.identity, done} and set(os.listdir(f"{dirs.store}/names")) == {"living", "done"}
    assert state.sweep(dirs) == []
    state.release(living)


def test_a_claim_without_a_journal_is_swept_too(dirs: Dirs) -> None:
    os.close(state.claim(dirs, "early").lock)
    assert listing.entries(dirs) == []
    assert len(state.sweep(dirs)) == 2 and os.listdir(dirs.state) == [] and os.listdir(f"{dirs.store}/names") == []


def test_a_sweep_undoes_the_leaves_in_reverse(dirs: Dirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undone: list[tuple[str, str]] = []
    monkeypatch.setattr(burial, "undo", lambda verb, path: undone.append((verb, path)))
    upper = tmp_path / "upper"
    upper.mkdir()
    dead = killed(dirs, leaves=[["tree", str(upper)], ["group", "/nowhere/g"]])
    assert state.sweep(dirs) == [f"{dead}: removed {upper}", f"{dead}: its pybox was killed; forgotten"]
    assert undone[-2:] == [("group", "/nowhere/g"), ("tree", str(upper))]


def test_writable_layers_without_a_container_are_removed(dirs: Dirs) -> None:
    living = alive(dirs)
    for name in (living.identity, "0123456789ab", "not-an-id"):
        os.makedirs(f"{dirs.uppers}/{name}/u")
    assert state.sweep(dirs) == ["removed the writable layer of 0123456789ab"]
    assert set(os.listdir(dirs.uppers)) == {living.identity, "not-an-id"}
    state.release(living)


def test_a_name_is_taken_as_long_as_its_container_is_there(dirs: Dirs) -> None:
    first = alive(dirs, "web")
    with pytest.raises(StateError) as caught:
        state.claim(dirs, "web")
    assert caught.value.message == f"the name 'web' is taken by container {first.identity}"
    assert caught.value.hint == "remove it: pybox rm web, or choose another name"
    assert set(statuses(dirs)) == {first.identity} and set(os.listdir(dirs.state)) == {first.identity}
    state.release(first)
    second = state.claim(dirs, "web")  # the name is left, its container is gone: killed between the two removals
    assert os.readlink(f"{dirs.store}/names/web") == second.identity
    state.release(second)


def test_of_many_who_want_one_name_at_once_one_gets_it(dirs: Dirs) -> None:
    def attempt(_: int) -> state.Claim | StateError:
        try:
            return state.claim(dirs, "web")
        except StateError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(attempt, range(24)))
    claims = [one for one in found if isinstance(one, state.Claim)]
    assert len(claims) == 1 and os.readlink(f"{dirs.store}/names/web") == claims[0].identity
    assert set(os.listdir(dirs.state)) == {claims[0].identity}
    state.release(claims[0])


def test_two_who_claim_at_once_have_two_ids(dirs: Dirs) -> None:
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: state.claim(dirs), range(64)))
    assert len({one.identity for one in claims}) == 64
    for one in claims:
        state.release(one)
    assert os.listdir(dirs.state) == []


def test_an_id_that_is_there_is_not_claimed_again(dirs: Dirs, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(dirs.state)
    ids = iter(["aaaaaaaaaaaa", "aaaaaaaaaaaa", "bbbbbbbbbbbb"])
    monkeypatch.setattr(state, "new_id", lambda: next(ids))
    first, second = state.claim(dirs), state.claim(dirs)
    assert (first.identity, second.identity) == ("aaaaaaaaaaaa", "bbbbbbbbbbbb")
    state.release(first)
    state.release(second)


def test_a_container_is_found_by_id_name_and_unambiguous_beginning(dirs: Dirs, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(dirs.state)
    ids = iter(["abc000000001", "abc000000002", "abd000000003"])
    monkeypatch.setattr(state, "new_id", lambda: next(ids))
    for name in ("one", "abc", "three"):
        ended(dirs, name)
    found = {word: listing.find(dirs, word).identity for word in ("abc000000001", "abd", "one", "abc0000000022"[:12], "abc")}
    assert found == {
        "abc000000001": "abc000000001",
        "abd": "abd000000003",
        "one": "abc000000001",
        "abc000000002": "abc000000002",
        "abc": "abc000000002",  # a name comes before a beginning
    }
    with pytest.raises(StateError) as caught:
        listing.find(dirs, "ab")
    message = caught.value.message
    assert message.startswith("ab is ambiguous: ") and all(
        f"ab{end}" in message for end in ("c000000001", "c000000002", "d000000003")
    )
    with pytest.raises(StateError, match=r"^no such container: nobody$"):
        listing.find(dirs, "nobody")


def test_the_empty_word_finds_nothing(dirs: Dirs) -> None:
    ended(dirs)
    with pytest.raises(StateError):
        listing.find(dirs, "")


def removed(dirs: Dirs, word: str) -> str:
    """Remove a container; return its id."""
    entry = listing.find(dirs, word)
    life.remove(dirs, entry)
    return entry.identity


def test_a_kept_container_is_removed_with_its_name_and_its_layer(dirs: Dirs) -> None:
    gone = ended(dirs, "web")
    os.makedirs(f"{dirs.uppers}/{gone}/u")
    assert removed(dirs, "web") == gone
    assert os.listdir(dirs.state) == [] and os.listdir(f"{dirs.store}/names") == os.listdir(dirs.uppers) == []


@pytest.mark.parametrize(("pid", "status"), [(None, "created"), (5, "running")])
def test_a_living_container_is_not_removed(dirs: Dirs, pid: int | None, status: str) -> None:
    living = alive(dirs, pid=pid)
    with pytest.raises(StateError, match=rf"^container {living.identity} is {status}$"):
        removed(dirs, living.identity)
    assert statuses(dirs) == {living.identity: status}
    state.release(living)


def test_layers_of_listed_containers_are_in_use(dirs: Dirs) -> None:
    living, _ = alive(dirs, layers=("/s/a", "/s/b")), ended(dirs, layers=("/s/b", "/s/c"))
    assert listing.layers_in_use(dirs) == {"/s/a", "/s/b", "/s/c"}
    state.release(living)
    assert listing.layers_in_use(dirs) == {"/s/b", "/s/c"}


def listed(dirs: Dirs, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the output of `ps -a` in all its forms, and see that gc and ps agree to work."""
    for words in (["-a"], ["-aq"], ["-a", "--format", "json"]):
        assert containers.ps(dirs, words) == 0
    return capsys.readouterr().out


def test_ps_shows_what_it_knows(dirs: Dirs, capsys: pytest.CaptureFixture[str]) -> None:
    living, done = alive(dirs, "web", 5, args=["sh", "-c", "sleep 1000; echo a long command"]), ended(dirs)
    assert containers.ps(dirs, []) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"]
    assert row.startswith(living.identity) and '"sh -c sleep 1000; e…"' in row and row.rstrip().endswith("web") and " Up " in row
    containers.ps(dirs, ["-aq"])
    assert set(capsys.readouterr().out.split()) == {living.identity, done}
    containers.ps(dirs, ["-a", "--format", "json"])
    rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows[done]["status"], rows[done]["exit_code"], rows[living.identity]["pid"]) == ("exited", 3, 5)
    state.release(living)


def test_rm_goes_on_with_the_others(dirs: Dirs, capfd: pytest.CaptureFixture[str]) -> None:
    done = ended(dirs)
    assert lifecycle.rm(dirs, ["nobody", done]) == 125
    out, err = capfd.readouterr()
    assert out == f"{done}\n" and err.startswith("pybox: error: no such container: nobody\n")


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (containers.ps, ["x"], "ps: 'x': must be [-a] [-q] [-f KEY=VALUE]... [-n NUMBER] [--format json|table]"),
        (
            containers.ps,
            ["--format", "xml"],
            "ps: '--format xml': must be [-a] [-q] [-f KEY=VALUE]... [-n NUMBER] [--format json|table]",
        ),
        (containers.inspect, [], "inspect: no container given"),
        (lifecycle.rm, [], "rm: no container given"),
        (containers.gc, ["x"], "gc: 'x': takes no arguments"),
    ],
)
def test_what_is_wrong_with_a_command_is_said(dirs: Dirs, command: type, words: list[str], message: str) -> None:
    with pytest.raises(PyboxError) as caught:
        command(dirs, words)
    assert caught.value.message == message


def test_gc_says_what_it_did(dirs: Dirs, capsys: pytest.CaptureFixture[str]) -> None:
    assert containers.gc(dirs, []) == 0
    assert capsys.readouterr().out == "nothing to clean up\n"
    dead = killed(dirs)
    assert containers.gc(dirs, []) == 0
    assert capsys.readouterr().out == f"{dead}: its pybox was killed; forgotten\n"


state_claim = state.Claim
