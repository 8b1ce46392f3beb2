"""The course as a text: complete, readable, true about files and pages. And answers as files: whatever is in them, nothing is raised."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybox.cli.learn import bench, learn, quiz
from pybox.dirs import Dirs
from pybox.errors import PyboxError, SpecError
from pybox.learn.course import LESSONS, lesson
from pybox.learn.export import files, write
from pybox.learn.grading import answers, grade
from pybox.learn.lab import MEMORY, PIDS, Lab, Refused
from pybox.learn.lesson import LETTERS, Lesson, parse, read_answer
from pybox.learn.lessons.tree import _moves
from pybox.runtime import Runtime
from pybox.spec import Limits

ROOT = Path(__file__).resolve().parents[2]
NO_MAN = shutil.which("man") is None or subprocess.run(["man", "-w", "2", "mount"], capture_output=True).returncode != 0


@pytest.fixture
def where(tmp_path: Path) -> Dirs:
    return Dirs(f"{tmp_path}/state", f"{tmp_path}/store")


@pytest.fixture
def lab(where: Dirs) -> Lab:
    return bench(Runtime(where))


def test_there_are_twelve_lessons_in_order() -> None:
    assert [task.number for task in LESSONS] == list(range(1, 13))
    assert len({task.name for task in LESSONS}) == 12 and all(len(task.mutants) >= 4 for task in LESSONS)


@pytest.mark.parametrize("task", LESSONS, ids=lambda task: task.name)
def test_a_lesson_fits_a_terminal_and_names_files_that_exist(task: Lesson) -> None:
    lines = [*task.text.splitlines(), *task.question.splitlines(), *task.choices, *task.task.splitlines(), task.hint]
    assert max(map(len, lines)) <= 150
    assert [file for file in task.code if not (ROOT / file).exists()] == []


@pytest.mark.skipif(NO_MAN, reason="needs man and the pages of Debian's manpages-dev")
@pytest.mark.parametrize("page", sorted({page for task in LESSONS for page in task.reading}))
def test_the_page_that_a_lesson_names_is_in_the_manual(page: str) -> None:
    name, _, section = page.rstrip(")").partition("(")
    found = subprocess.run(["man", "-w", section, name], capture_output=True).returncode == 0
    if not found and page in ("newuidmap(1)", "nsenter(1)", "unshare(1)"):
        pytest.skip("of a package that need not be here")
    assert found, f"no page {page} in this manual"


@pytest.mark.parametrize("task", LESSONS, ids=lambda task: task.name)
def test_an_answer_file_is_read_as_it_was_written(task: Lesson, tmp_path: Path) -> None:
    (tmp_path / task.file).write_text(task.answer(task.solution, "b"))
    handed = read_answer(f"{tmp_path}/{task.file}")
    assert (handed.lesson, handed.predict) == (task.number, "b")
    assert handed.body.endswith(task.solution.strip())


@given(st.text())
def test_any_text_is_an_answer(text: str) -> None:
    handed = parse(text)
    assert handed.lesson >= 0 and len(handed.predict) <= 1


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b"# lesson: 1\n\0"), "is no text file"),
        (lambda path: path.write_text("x" * 65537), "is longer than 65536 bytes"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: None, "No such file or directory"),
    ],
    ids=["nul", "long", "directory", "absent"],
)
def test_what_is_no_answer_is_refused_with_its_reason(make: object, reason: str, tmp_path: Path) -> None:
    make(tmp_path / "lesson-01.txt")  # type: ignore[operator]
    with pytest.raises(SpecError) as caught:
        read_answer(f"{tmp_path}/lesson-01.txt")
    assert caught.value.reason.startswith(reason)


def test_a_fifo_among_the_answers_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lesson-01.txt")
    assert read_answer(f"{tmp_path}/lesson-01.txt").body == ""


REACHING = [
    "-v /:/host", "--mount type=bind,source=/,target=/host", "--network host", "--network pybox", "-p 80:80", "--pid host", "--ipc host",
    "--uts host", "--env-file /etc/shadow", "--cidfile /tmp/x", "--status-file /tmp/x", "--trace-file /tmp/x", "--hpc", "--userns=host",
    "--security-opt seccomp=/etc/shadow", "--without mount", "--system", "-t", "--restart always", "--upper disk", "--allow-net any",
]  # fmt: skip


@pytest.mark.parametrize("option", REACHING)
def test_an_answer_can_ask_for_nothing_that_reaches_out_of_its_container(lab: Lab, option: str) -> None:
    with pytest.raises(Refused):
        lab.asked(f"pybox run {option} busybox sleep 1000")


def test_what_an_answer_asks_for_runs_in_a_user_namespace_with_limits(lab: Lab) -> None:
    spec = lab.asked("pybox run --rm -d --name x --cap-add ALL busybox sleep 5")
    assert spec.userns and spec.network == "none" and spec.limits.memory and spec.limits.pids and spec.best_effort


def test_a_program_of_an_answer_gets_no_more_than_there_is_for_it_and_always_a_filter(lab: Lab) -> None:
    spec = lab.asked(
        "pybox run -m 100G --memory-swap -1 --pids-limit 100000 --security-opt seccomp=unconfined busybox sh -c true"
    )
    assert (spec.limits, spec.seccomp) == (Limits(memory=MEMORY, pids=PIDS), "")


def test_an_answer_gets_no_variable_of_the_teacher(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    assert lab.asked("pybox run -e SECRET busybox true").env == ()


@pytest.mark.parametrize(
    "body", ["mkdir ../x", "mkdir /x", "move ..", "rmdir .", "enable memory", "rm x", "mkdir a b", "mkdir é"]
)
def test_a_move_can_not_lead_out_of_its_group(body: str) -> None:
    with pytest.raises(Refused):
        _moves(body)


@given(st.text(max_size=200))
def test_any_text_is_refused_or_taken_as_a_command_line(text: str) -> None:
    made = bench(Runtime(Dirs("/nonexistent/state", "/nonexistent/store")))
    try:
        assert made.asked(text).userns
    except Refused:
        pass


def test_the_course_is_written_with_what_teachers_keep_apart(tmp_path: Path) -> None:
    folder = tmp_path / "course"
    assert write(str(folder)) == len(list(files()))
    given_out = "".join(path.read_text() for part in ("lessons", "tasks") for path in (folder / part).iterdir())
    kept = "".join(path.read_text() for path in (folder / "teacher").glob("*.md"))
    for task in LESSONS:
        assert (folder / "tasks" / task.file).read_text() == task.answer(task.start)
        assert (folder / "teacher/solutions" / task.file).exists() and task.solution not in given_out
        assert all(mutant.belief in kept for mutant in task.mutants)
    with pytest.raises(SpecError, match="is not empty"):
        write(str(folder))


def test_answers_are_found_below_a_directory_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada/lesson-01.txt").write_text("")
    (tmp_path / "ada/lesson-02.sh").symlink_to("/etc/passwd")
    (tmp_path / "ada/notes.txt").write_text("")
    assert list(answers([str(tmp_path)])) == [(str(tmp_path), "ada/lesson-01.txt")]
    (tmp_path / "bea").symlink_to("ada")
    assert list(answers([f"{tmp_path}/bea/"])) == [(f"{tmp_path}/bea/", "lesson-01.txt")]  # who writes the slash means it
    assert list(answers([f"{tmp_path}/bea"])) == [(str(tmp_path), "bea")]
    for path in (f"{tmp_path}/bob", "/nonexistent"):
        with pytest.raises(SpecError):
            list(answers([path]))


def test_a_link_that_is_swapped_in_after_the_search_is_not_followed(tmp_path: Path, lab: Lab) -> None:
    """Nor is one that was named: it may be of somebody's in whose directory the shell looked for names."""
    (tmp_path / "secret").write_text("# lesson: 99\n")
    for name in ("ada", "bob"):
        (tmp_path / "class" / name).mkdir(parents=True)
        (tmp_path / "class" / name / "lesson-01.txt").write_text("")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/lesson-01.txt").write_text("# lesson: 99\n")
    found = list(answers([f"{tmp_path}/class"]))
    assert len(found) == 2
    (tmp_path / "class/ada/lesson-01.txt").unlink()
    (tmp_path / "class/ada/lesson-01.txt").symlink_to(tmp_path / "secret")
    (tmp_path / "class/bob").rename(tmp_path / "bob")
    (tmp_path / "class/bob").symlink_to(tmp_path / "elsewhere")
    graded = [grade(lab, *where) for where in (*found, *answers([f"{tmp_path}/class/bob"]))]
    assert [(one.lesson, one.mark, one.why) for one in graded] == [
        (0, "unreadable", "is a symbolic link"),
        (0, "unreadable", "Not a directory"),
        (0, "unreadable", "is a symbolic link"),
    ]
    assert graded[0].file == f"{tmp_path}/class/ada/lesson-01.txt"


def test_a_tree_as_deep_as_a_path_can_be_is_searched_to_a_point(tmp_path: Path) -> None:
    (tmp_path / "lesson-01.txt").write_text("")
    subprocess.run(["mkdir", "-p", f"{tmp_path}/{'a/' * 1500}"], check=True)
    try:
        assert list(answers([str(tmp_path)])) == [(str(tmp_path), "lesson-01.txt")]
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)  # which pytest's own tidying could not


@pytest.mark.parametrize(
    "words",
    [
        ("13",),
        ("0",),
        ("x",),
        ("1", "2"),
        ("--list", "1"),
        ("grade",),
        ("grade", "/nonexistent"),
        ("--export", "/x", "1"),
        ("--chek", "1"),
    ],
    ids=" ".join,
)
def test_words_that_mean_no_lesson_are_refused(where: Dirs, words: tuple[str, ...]) -> None:
    with pytest.raises(PyboxError):
        learn(where, list(words))


@pytest.mark.parametrize(
    "words", [("1",), ("--seed", "x"), ("--count", "0"), ("--count", "101"), ("--format", "xml")], ids=" ".join
)
def test_words_that_make_no_quiz_are_refused(where: Dirs, words: tuple[str, ...]) -> None:
    with pytest.raises(SpecError):
        quiz(where, list(words))


def test_a_lesson_is_found_by_number_and_by_name() -> None:
    assert lesson("6") is lesson("init") is LESSONS[5]
    assert all(task.key in LETTERS for task in LESSONS)
