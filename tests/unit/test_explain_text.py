"""What explain says of a plan beside its steps: where the code is, the lines for a shell, what a part was for, what changed."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
from pathlib import Path

import pytest

from pybox.errors import SpecError
from pybox.explain.byhand import _WRITERS, quoted
from pybox.explain.snapshot import Shot, difference, take
from pybox.explain.stepping import Timed, Trace
from pybox.explain.until import row_of
from pybox.explain.views import lesson
from pybox.explain.why import step_kinds
from pybox.explain.without import LOSSES, without
from pybox.plan import Plan
from pybox.seen import Seen
from pybox.spec import Spec
from pybox.steps import claim, mounts, process
from pybox.steps.base import Step

ROOT = Path(__file__).resolve().parents[2]
# a shell has no words for an id map of a mount, nor for a terminal or a group of its own; networks are wired by messages; exec is no run
NOT_BY_HAND = {"MapLayer", "OpenTerminal", "ControlTerminal", "DelegateGroup"}
ROOMS_NOT_BY_HAND = {"wiring", "pasta", "entering"}


def test_each_kind_of_step_has_lines_for_a_shell_or_is_known_to_have_none() -> None:
    unable = {kind for kind in step_kinds() if not any(base in _WRITERS for base in kind.__mro__)}
    assert {kind.__name__ for kind in unable if kind.__module__.rpartition(".")[2] not in ROOMS_NOT_BY_HAND} == NOT_BY_HAND


@pytest.mark.parametrize("kind", step_kinds(), ids=lambda kind: kind.__name__)
def test_a_lesson_is_the_docstring_as_python_shows_it(kind: type[Step]) -> None:
    assert lesson(kind) == inspect.getdoc(kind)


@pytest.mark.parametrize("text", ["a", "", "it's", "a b", "CONTAINER-ID", "x-CONTAINER-ID-y z", '$HOME `id` "q"\n'])
def test_a_quoted_word_is_that_word_to_a_shell(text: str) -> None:
    done = subprocess.run(["sh", "-c", f"ID=0123; printf %s {quoted(text)}"], capture_output=True, text=True, check=True)
    assert done.stdout == text.replace("CONTAINER-ID", "0123")


@pytest.mark.parametrize("part", LOSSES)
def test_each_part_that_can_be_left_out_changes_the_spec_and_says_what_is_lost(part: str) -> None:
    loss = LOSSES[part]
    assert without(Spec("x"), [part]) != Spec("x") and loss.lost and re.search(r"\w+\(\d\)", loss.why)


@pytest.mark.parametrize("part", ["mount", "user", "cgroup", "nonsense", ""])
def test_a_part_that_the_host_needs_or_that_is_none_is_refused(part: str) -> None:
    with pytest.raises(SpecError):
        without(Spec("x"), [part])


PLAN = Plan((claim.ClaimState("/s"),), (process.Clone(()), mounts.PivotRoot(), process.Exec(("/x",), ("x",), ())), (), ())


@pytest.mark.parametrize(("word", "row"), [("2", 0), ("3", 1), ("4", 1), ("PivotRoot", 1), ("pivot_root", 1), ("clone", 0)])
def test_a_step_to_stop_after_is_named_by_its_number_or_kind(word: str, row: int) -> None:
    assert row_of(PLAN, word) == row


@pytest.mark.parametrize("word", ["1", "0", "5", "-1", "99999999", "MountProc", "", "²"])
def test_a_step_to_stop_after_must_be_one_inside(word: str) -> None:
    with pytest.raises(SpecError):
        row_of(PLAN, word)


def test_a_difference_names_what_is_new_gone_and_changed() -> None:
    before = Shot(frozenset({("mounts", "tmpfs on /a", "rw"), ("rights", "Uid", "0"), ("files", "x", "1")}))
    after = Shot(frozenset({("mounts", "proc on /b", "ro"), ("rights", "Uid", "5"), ("files", "x", "1")}))
    assert list(map(str, difference(before, after))) == ["+ proc on /b ro", "- tmpfs on /a rw", "Uid: 0 -> 5"]


def test_a_process_that_stands_still_does_not_differ_from_itself() -> None:
    me = Seen(os.getpid())
    assert difference(take(me), take(me)) == [] and take(me).facts


def test_a_process_that_is_gone_has_no_state() -> None:
    assert all(value in ("", "none", "0") for _, _, value in take(Seen(1 << 22)).facts)


def test_a_trace_is_what_perfetto_reads() -> None:
    trace = Trace("0123", (Timed(1, "host", "d", "mkdir", 1000, 3000), Timed(2, "inside", "e", "mount", 3000, 4500)))
    document = trace.to_chrome(7)
    assert isinstance(document["traceEvents"], list)
    events = [event for event in document["traceEvents"] if isinstance(event, dict) and event["ph"] == "X"]
    assert [(event["name"], event["ts"], event["dur"], event["pid"]) for event in events] == [
        ("d", 1.0, 2.0, 7),
        ("e", 3.0, 1.5, 7),
    ]
