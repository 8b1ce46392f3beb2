"""Lessons: the check fails before the solution, passes with it, and fails on every mutant, with the sentence that is its due."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import cli
from test_rootless import Person as Rootless
from test_rootless import _usable, home  # noqa: F401  # a fixture

from pybox import api, dirs
from pybox.cli.learn import bench
from pybox.learn.course import LESSONS, judge, lesson
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


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("while :; do :; done", "did not come to its end"),
        ("yes", "did not come to its end"),
        ("kill -9 -1", "ended its own container"),
        ("echo done >/proc/1/fd/1; kill -9 $PPID", ""),
    ],
)
def test_a_hostile_script_fails_and_is_gone(lab: Lab, monkeypatch: pytest.MonkeyPatch, script: str, said: str) -> None:
    monkeypatch.setattr("pybox.learn.lab.SECONDS", 0.3)
    passed, told, _ = judged(lab, lesson("hostname"), script)
    assert not passed and said in told


def test_what_the_kernel_refuses_of_an_answer_is_the_answers_fault(lab: Lab) -> None:
    passed, said, _ = judged(lab, lesson("process"), "pybox run --no-init --tmpfs /bin/sh busybox sleep 1000")
    assert not passed and "NOT the kernel refuses it" in said


def test_a_mount_whose_name_is_no_text_is_looked_at_like_any_other(lab: Lab) -> None:
    script = "unshare -m sh -c 'd=/mnt/$(printf \"\\377\"); mkdir -p $d; mount --bind / $d; exec sleep 1000' &"
    passed, said, _ = judged(lab, lesson("root"), script)
    assert not passed and "NOT the old root is still there" in said


def test_a_script_sees_nothing_of_the_host_and_reaches_no_network(lab: Lab) -> None:
    with lab.after("true") as scene:
        assert scene.one.private("user") and scene.one.private("net") and scene.one.private("mnt") and scene.one.private("pid")
        outside = int(scene.one.status("Uid").split()[0])
        assert outside >= 1000  # its root is nobody here
        assert [line.partition(":")[0].strip() for line in scene.one.file("net/dev").splitlines()[2:]][:1] == ["lo"]
        assert len(scene.one.file("net/route").splitlines()) <= 1


def test_a_class_is_graded_in_a_table_and_in_json(store: dirs.Dirs, tmp_path: Path) -> None:
    first, fourth = lesson("1"), lesson("4")
    for name, task, body in (
        ("ada", first, first.solution),
        ("bob", first, first.mutants[0].answer),
        ("ada", fourth, fourth.solution),
    ):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / task.file).write_text(task.answer(body, "c"))
    done = cli("learn", "grade", str(tmp_path), "--format", "json")
    assert done.returncode == 1, done.stderr
    marks = {(os.path.basename(os.path.dirname(one["file"])), one["lesson"]): one for one in json.loads(done.stdout)["answers"]}
    assert [marks[key]["mark"] for key in (("ada", 1), ("ada", 4), ("bob", 1))] == ["passed", "passed", "not yet"]
    assert marks[("bob", 1)]["why"].startswith("process 1 is pybox-init") and marks[("ada", 4)]["right"] == "b"
    table = cli("learn", "grade", f"{tmp_path}/ada")
    assert (table.returncode, table.stdout.count("passed"), table.stdout.count("c, right")) == (0, 2, 1)


@pytest.mark.skipif(bool(_usable()), reason="unprivileged user namespaces are off")
def test_a_plain_user_passes_what_needs_no_control_group_and_is_told_what_does(home: Path) -> None:  # noqa: F811
    for number in ("2", "8", "9"):
        task = lesson(number)
        (home / task.file).write_text(task.answer(task.solution))
    person = Rootless(home)
    assert person.pybox("import", "busybox", f"{home}/tree").returncode == 0
    done = person.pybox("learn", "grade", *(f"{home}/{lesson(number).file}" for number in ("2", "8", "9")), "--format", "json")
    assert done.returncode == 2, (done.stdout, done.stderr)
    marks = [(one["mark"], one["why"].rpartition("; ")[2]) for one in json.loads(done.stdout)["answers"]]
    assert marks == [("passed", ""), ("not here", "`pybox doctor limits`"), ("not here", "`pybox doctor cgroup`")]


def test_a_learner_begins_checks_and_keeps_their_file(store: dirs.Dirs, tmp_path: Path) -> None:
    file = tmp_path / "lesson-01.txt"
    begun = cli("learn", "process", cwd=tmp_path)
    assert begun.returncode == 0 and "PREDICT" in begun.stdout and file.read_text() == lesson("1").answer(lesson("1").start)
    file.write_text(lesson("1").answer(lesson("1").solution, "a"))
    assert "as you left it" in cli("learn", "1", cwd=tmp_path).stdout and "--no-init" in file.read_text()
    done = cli("learn", "1", "--check", str(file))
    assert done.returncode == 0, done.stderr
    assert "you said a; it is c" in done.stdout and done.stdout.endswith("Lesson 1: passed\n")
    assert cli("learn", "2", "--check", str(file)).returncode == 125


def test_a_quiz_asks_the_same_by_seed_and_its_answers_are_among_the_choices(store: dirs.Dirs) -> None:
    def asked(*words: str) -> list[dict[str, object]]:
        done = cli("quiz", "--format", "json", *words)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, object]] = json.loads(done.stdout)["questions"]
        return found

    first = asked("--seed", "7", "--count", "20", "--answers")
    assert len(first) == 20 and first == asked("--seed", "7", "--count", "20", "--answers") != asked(
        "--seed", "8", "--count", "20", "--answers"
    )
    for question in first:
        choices = question["choices"]
        assert isinstance(choices, list) and len(set(choices)) == len(choices) == 4 and str(question["answer"]) in "abcd"
    assert not any("answer" in question or "read" in question for question in asked("--seed", "7"))
