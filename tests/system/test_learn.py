"""Lessons: the check fails before the solution, passes with it, and fails on every mutant, with the sentence that is its due."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pybox import api, dirs
from pybox.cli.learn import bench
from pybox.learn.course import LESSONS, judge
from pybox.learn.lab import Lab
from pybox.learn.lesson import CannotHere, Handed, Lesson, Mutant


@pytest.fixture(scope="module")
def lab(store: dirs.Dirs) -> Iterator[Lab]:
    return bench(api.shared())


def judged(lab: Lab, task: Lesson, body: str, experiment: bool = False) -> tuple[bool, str, str]:
    """Return whether an answer passes, what was said of it, and how the experiment went."""
    try:
        found = judge(lab, task, Handed(task.number, "", body), experiment)
    except CannotHere as reason:
        pytest.skip(f"{reason.message}; {reason.hint}")
    said = "\n".join(f"{'ok' if finding.ok else 'NOT'} {finding.says}" for finding in found.findings)
    return found.passed, said, found.observed.letter if found.observed else ""


@pytest.mark.parametrize("task", LESSONS, ids=lambda task: task.name)
def test_the_solution_passes_and_the_experiment_goes_as_the_key_says(lab: Lab, task: Lesson) -> None:
    passed, said, letter = judged(lab, task, task.solution, experiment=True)
    assert passed, said
    assert letter == task.key


@pytest.mark.parametrize("task", LESSONS, ids=lambda task: task.name)
def test_each_wrong_answer_fails_and_is_told_why(lab: Lab, task: Lesson) -> None:
    for mutant in (Mutant("nothing was done yet", task.start, ""), *task.mutants):
        passed, said, _ = judged(lab, task, mutant.answer)
        wrong = "\n".join(line for line in said.splitlines() if line.startswith("NOT"))
        assert not passed and mutant.says in wrong, f"{mutant.belief}:\n{said}"
