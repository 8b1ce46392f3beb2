"""What is told of containers: from records that change, from the dead, from records of the past; and how it is worded."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_state import JOURNAL, alive, ended, keep, killed

from pybox import burial, kept, listing, state
from pybox.cli import events, steering, table, watching
from pybox.cli.options import Option, parse_anywhere
from pybox.dirs import Dirs
from pybox.errors import PyboxError, SpecError, StateError
from pybox.kernel.processes import inside_id, processes
from pybox.live import held, running
from pybox.watch import Event, Watcher


@pytest.fixture
def dirs(tmp_path: Path) -> Dirs:
    return Dirs(f"{tmp_path}/store", f"{tmp_path}/state")


@pytest.fixture(autouse=True)
def no_fd_is_left() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def told(watcher: Watcher, *kinds: str) -> list[Event]:
    """Wait for events of these kinds, in this order."""
    found: list[Event] = []
    while len(found) < len(kinds):
        new = watcher.wait(20)
        assert new, [event.kind for event in found]
        found += new
    assert [event.kind for event in found] == list(kinds)
    return found


# --- the watcher -------------------------------------------------------------------------------------------------------------


def test_a_life_is_told_from_its_record(dirs: Dirs, sleeper: subprocess.Popen[bytes]) -> None:
    with Watcher(dirs) as watcher:
        taken = state.claim(dirs)
        assert watcher.wait(0.05) == []  # nothing is known of it yet
        journal = state.open_journal(taken, {**JOURNAL, "name": "web"})
        (event,) = told(watcher, "create")
        assert (event.identity, event.name, event.image) == (taken.identity, "web", "busybox")
        os.write(journal, str(sleeper.pid).encode())
        os.close(journal)
        told(watcher, "start")
        keep(dirs, taken.identity, "web")
        kept.end(dirs, taken.identity, {"reason": "timeout", "exit_code": 137})
        state.release(taken)
        (event,) = told(watcher, "die")
        assert (event.exit_code, event.reason) == (137, "timeout")
        assert watcher.wait(0.05) == []  # it can be started again
        burial.forget(dirs, taken.identity, "web")
        told(watcher, "destroy")


def test_one_that_was_only_created_is_told_too(dirs: Dirs) -> None:
    with Watcher(dirs) as watcher:
        keep(dirs, "0123456789ab", "web")
        (event,) = told(watcher, "create")
        assert (event.identity, event.name, event.image) == ("0123456789ab", "web", "busybox")
        burial.forget(dirs, "0123456789ab", "web")
        told(watcher, "destroy")


def test_out_of_memory_is_told_before_the_end_even_where_no_group_said_so(dirs: Dirs, sleeper: subprocess.Popen[bytes]) -> None:
    with Watcher(dirs) as watcher:
        taken = alive(dirs, pid=sleeper.pid)
        told(watcher, "create", "start")
        keep(dirs, taken.identity)
        kept.end(dirs, taken.identity, {"reason": "oom", "exit_code": 137})
        state.release(taken)
        told(watcher, "oom", "die")


def test_the_end_of_one_whose_owner_says_nothing_is_told_by_its_process(dirs: Dirs, sleeper: subprocess.Popen[bytes]) -> None:
    with Watcher(dirs) as watcher:
        taken = alive(dirs, pid=sleeper.pid)
        told(watcher, "create", "start")
        sleeper.kill()
        sleeper.wait()
        (event,) = told(watcher, "die")
        assert event.exit_code in (137, None)  # None before Linux 6.15
        state.release(taken)
        told(watcher, "destroy")


def test_one_that_is_started_again_has_died_in_between(dirs: Dirs, sleeper: subprocess.Popen[bytes]) -> None:
    with Watcher(dirs) as watcher:
        taken = alive(dirs, pid=sleeper.pid)
        told(watcher, "create", "start")
        with subprocess.Popen(["sleep", "1000"]) as second:
            text = Path(taken.path, "journal").read_text().partition("\n")[0]
            Path(taken.path, "new").write_text(f"{text}\n{second.pid}")
            os.rename(f"{taken.path}/new", f"{taken.path}/journal")
            told(watcher, "die", "start")
            second.kill()
        os.close(taken.lock)


def test_a_record_that_goes_without_a_word_is_a_death_and_a_removal(dirs: Dirs, sleeper: subprocess.Popen[bytes]) -> None:
    with Watcher(dirs) as watcher:
        taken = alive(dirs, pid=sleeper.pid)
        told(watcher, "create", "start")
        state.release(taken)
        told(watcher, "die", "destroy")


def test_one_that_was_too_quick_to_be_seen_is_still_told(dirs: Dirs) -> None:
    with Watcher(dirs) as watcher:
        taken = state.claim(dirs)
        state.release(taken)
        told(watcher, "create", "destroy")


def test_pausing_is_told_from_the_kernels_word(dirs: Dirs, tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    group = tmp_path / "group"
    group.mkdir()
    (group / "cgroup.freeze").write_text("0")
    (group / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    with Watcher(dirs) as watcher:
        taken = alive(dirs, pid=sleeper.pid, groups=[["", str(group)]])
        told(watcher, "create", "start")
        for frozen, kind in ((1, "pause"), (0, "unpause")):
            (group / "new").write_text(f"populated 1\nfrozen {frozen}\n")
            (group / "cgroup.events").write_bytes((group / "new").read_bytes())
            told(watcher, kind)
        os.close(taken.lock)


def test_what_was_before_is_not_new_but_the_records_know_it(dirs: Dirs, sleeper: subprocess.Popen[bytes]) -> None:
    gone = ended(dirs)
    taken = alive(dirs, "web", pid=sleeper.pid)
    with Watcher(dirs) as watcher:
        assert watcher.wait(0) == []
        kinds = [(event.identity, event.kind) for event in watcher.past]
        assert set(kinds) == {
            (gone, "create"),
            (gone, "start"),
            (gone, "die"),
            (taken.identity, "create"),
            (taken.identity, "start"),
        }
        assert [event.time for event in watcher.past] == sorted(event.time for event in watcher.past)
    os.close(taken.lock)


def test_the_pid_of_one_whose_pybox_was_killed_is_not_taken_for_his(dirs: Dirs, sleeper: subprocess.Popen[bytes]) -> None:
    killed(dirs, pid=sleeper.pid)
    with Watcher(dirs) as watcher:
        sleeper.kill()
        sleeper.wait()
        assert watcher.wait(0.05) == []


# --- what can be held --------------------------------------------------------------------------------------------------------


def test_only_one_that_runs_can_be_held(dirs: Dirs, sleeper: subprocess.Popen[bytes]) -> None:
    taken = alive(dirs, "web", pid=sleeper.pid, owner=os.getpid(), groups=[["", "/g"], ["memory", "/m"], "x", [1]])
    with held(dirs, "web") as live:
        assert (live.pid, live.groups) == (sleeper.pid, (("", "/g"), ("memory", "/m"))) and live.still()
        sleeper.kill()
        sleeper.wait()
        assert not live.still()
    with pytest.raises(StateError, match="has just ended"), held(dirs, "web"):
        pass
    os.close(taken.lock)
    with pytest.raises(StateError, match="is not running: its pybox was killed"):
        running(dirs, "web")
    with pytest.raises(StateError, match="is not running: it is exited"):
        running(dirs, ended(dirs))


def test_a_record_of_an_older_pybox_has_no_groups(dirs: Dirs) -> None:
    taken = alive(dirs)
    assert listing.find(dirs, taken.identity).groups == ()
    os.close(taken.lock)


# --- processes ---------------------------------------------------------------------------------------------------------------


def test_ids_are_shown_as_the_container_counts_them() -> None:
    text = "         0 2000000000      65536\n     70000       1000          1\n"
    assert [inside_id(uid, text) for uid in (2000000000, 2000000033, 1000, 0)] == [0, 33, 70000, None]
    assert inside_id(5, "") is None


def test_with_the_hosts_pid_namespace_and_no_group_only_process_1_is_known(sleeper: subprocess.Popen[bytes]) -> None:
    (found,) = processes(sleeper.pid, ())
    assert (found.host_pid, found.parent, found.command, found.threads) == (sleeper.pid, os.getpid(), "sleep 1000", 1)
    assert processes(2**22 + 1, ()) == ()


# --- the command line --------------------------------------------------------------------------------------------------------


@given(st.text())
def test_nothing_reaches_the_terminal_but_printable_characters(text: str) -> None:
    assert table.visible(text).isprintable() and (not text.isprintable() or table.visible(text) == text)


def test_control_characters_are_shown_as_such() -> None:
    assert table.visible("a\x1b]0;x\x07\n\x9b\u202e\udcff") == r"a\x1b]0;x\x07\n\x9b\u202e\udcff"


@pytest.mark.parametrize(
    ("count", "shown"),
    [(None, "-"), (0, "0B"), (1023, "1023B"), (1024, "1KiB"), (1536, "1.5KiB"), (64 << 20, "64MiB"), (1 << 62, "4096PiB")],
)
def test_sizes_for_people(count: int | None, shown: str) -> None:
    assert table.size(count) == shown


def test_options_may_stand_behind_the_words() -> None:
    options = (Option(("-o", "--columns"), "", "", "COLUMNS"), Option(("--all",), "", ""))
    parsed = parse_anywhere(options, ["a", "-o", "x", "b", "--all", "--", "-o"])
    assert (parsed.rest, parsed.one("columns"), parsed.has("all")) == (["a", "b", "-o"], "x", True)
    with pytest.raises(SpecError):
        parse_anywhere(options, ["a", "--nope"])


def test_an_event_is_worded_as_dockers_is() -> None:
    event = Event(0.5, "die", "0123456789ab", "web", "busy\x1bbox", 7, "exit")
    assert events.line(event) == (
        r"1970-01-01T00:00:00.500000Z container die 0123456789ab (image=busy\x1bbox, name=web, exit_code=7, reason=exit)"
    )
    assert events.line(event.replace(kind="start")).endswith("name=web)")
    assert "exit_code" not in event.replace(kind="start").to_json()


@pytest.mark.parametrize("text", ["", "x", "-5", "5x", "yesterday", "1e400", "9" * 30, "m", "2026-13-01"])
def test_a_time_that_is_none_is_refused(text: str, dirs: Dirs) -> None:
    with pytest.raises(SpecError):
        events.events(dirs, ["--since", text])


@pytest.mark.parametrize("text", ["x", "event=", "event=nope", "image=x", ""])
def test_a_filter_that_is_none_is_refused(text: str, dirs: Dirs) -> None:
    with pytest.raises(SpecError):
        events.events(dirs, ["--filter", text])


def test_the_past_is_printed_up_to_a_time_and_filtered(dirs: Dirs, capsys: pytest.CaptureFixture[str]) -> None:
    identity = ended(dirs, "web")
    ended(dirs)
    for words, kinds in (
        (["--filter", "container=web"], ["create", "start", "die"]),
        (["--filter", f"container={identity[:6]}", "--filter", "event=die", "--filter", "event=start"], ["start", "die"]),
        (["--filter", "container=nobody"], []),
    ):
        assert events.events(dirs, ["--since", "0", "--until", "0s", *words]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[2] for line in lines] == kinds and all(identity in line for line in lines)


@pytest.mark.parametrize(
    "words",
    [
        ["top"],
        ["top", "a", "b"],
        ["top", "x", "-o", "nope"],
        ["top", "nobody"],
        ["stats", "nobody"],
        ["stats", "--format", "xml"],
        ["events", "x"],
        ["pause"],
        ["unpause"],
        ["update", "-m", "64M"],
        ["update", "nobody"],
        ["update", "--cpus", "x", "nobody"],
        ["update", "--memory-swap", "1k", "nobody"],
    ],
)
def test_bad_words_are_refused(words: list[str], dirs: Dirs) -> None:
    verbs = {**vars(watching), **vars(steering), **vars(events)}
    with pytest.raises(PyboxError):
        verbs[words[0]](dirs, words[1:])


def test_one_that_refuses_does_not_stop_the_others(
    dirs: Dirs, tmp_path: Path, sleeper: subprocess.Popen[bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pids.max").write_text("9")
    taken = alive(dirs, "web", pid=sleeper.pid, owner=os.getpid(), groups=[["pids", str(tmp_path)]])
    assert steering.update(dirs, ["nobody", "web", "--pids-limit", "5"]) == 125
    said = capfd.readouterr()
    assert said.out == f"{taken.identity}\n" and "no such container: nobody" in said.err
    assert (tmp_path / "pids.max").read_text() == "5"
    assert steering.update(dirs, ["--pids-limit=-1", "web"]) == 0 and (tmp_path / "pids.max").read_text() == "4194304"
    assert steering.pause(dirs, ["web"]) == 125
    assert f"cannot pause container {taken.identity}: it has no control group" in capfd.readouterr().err
    os.close(taken.lock)
