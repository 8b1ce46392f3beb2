"""`pybox learn` and `pybox quiz`. Exit status 0: passed, 1: not yet, 2: this host can't show it."""

from __future__ import annotations

import json
import os

from pybox.cli.options import RUN, Option, Parsed, parse, parse_anywhere
from pybox.cli.run import spec_of
from pybox.cli.table import FORMAT, form, table, visible
from pybox.errors import SpecError
from pybox.learn.course import LESSONS, Judged, judge, lesson
from pybox.learn.export import write
from pybox.learn.grading import Graded, answers, grade
from pybox.learn.lab import HARMLESS, Lab
from pybox.learn.lesson import LETTERS, Handed, Lesson, read_answer
from pybox.learn.quiz import Quiz
from pybox.runtime import Runtime
from pybox.units import parse_int

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.dirs import Dirs
    from pybox.spec import Spec

LEARN = (
    Option(("--list",), "", "the lessons"),
    Option(("--check",), "", "run an answer, and look at what the kernel shows", "FILE"),
    Option(("--hint",), "", "one sentence on the way"),
    Option(("--solution",), "", "an answer that is right"),
    Option(("--file",), "", "where to put the file for your answer (lesson-NN.txt or .sh here)", "FILE"),
    Option(("--export",), "", "write the course for a class: texts, tasks, and solutions apart", "DIR"),
    FORMAT.replace(help="of --check and grade: text (the default) or json"),
)
QUIZ = (
    Option(("--seed",), "", "the same number asks the same questions (0)", "NUMBER"),
    Option(("--count",), "", "how many (5)", "NUMBER"),
    Option(("--answers",), "", "with the answers"),
    FORMAT.replace(help="text (the default) or json"),
)


def bench(runtime: Runtime) -> Lab:
    """Return a place to run answers in."""

    def read_line(words: list[str]) -> tuple[set[str], Spec]:
        parsed = parse(RUN, words)
        # nothing of an answer is read from our files or environment: a Spec is made of those options only that Lab lets pass
        kept = Parsed()
        kept.rest = parsed.rest
        kept.values = {key: values for key, values in parsed.values.items() if key in HARMLESS}
        kept.values["env"] = [word for word in parsed.all("env") if "=" in word]
        return set(parsed.values), spec_of(kept)

    return Lab(runtime, read_line)


def learn(where: Dirs, words: list[str]) -> int:
    """Show a lesson, or check an answer; returns the exit status."""
    parsed = parse_anywhere(LEARN, words)
    folder = parsed.one("export")
    if folder is not None:
        if parsed.rest:
            raise SpecError("export", " ".join(parsed.rest), "--export takes no lesson: it is all of the course")
        print(f"{write(folder)} files in {visible(folder)}; teacher/ is not for the class")
        return 0
    if parsed.rest[:1] == ["grade"]:
        return _grade(where, parsed)
    if parsed.has("list") or not parsed.rest:
        if parsed.rest:
            raise SpecError("learn", " ".join(parsed.rest), "--list takes no lesson")
        print(_list())
        return 0
    if len(parsed.rest) > 1:
        raise SpecError("learn", " ".join(parsed.rest), "one lesson at a time")
    task = lesson(parsed.rest[0])
    if parsed.has("hint"):
        print(task.hint)
        return 0
    if parsed.has("solution"):
        print(task.answer(task.solution, task.key), end="")
        return 0
    path = parsed.one("check")
    if path is not None:
        handed = read_answer(path)
        if handed.lesson not in (0, task.number):
            raise SpecError("check", path, f"is an answer to lesson {handed.lesson}")
        return _check(bench(Runtime(where)), task, handed, form(parsed, "text", "json"))
    print("\n".join(_show(where, task)))
    print(_begin(task, parsed.one("file") or task.file))
    return 0


def _grade(where: Dirs, parsed: Parsed) -> int:
    shape = form(parsed, "text", "json")
    if not parsed.rest[1:]:
        raise SpecError("grade", "", "needs a file or a directory", "pybox learn grade DIR|FILE...")
    lab = bench(Runtime(where))
    graded = [grade(lab, folder, name) for folder, name in answers(parsed.rest[1:])]
    if shape == "json":
        print(json.dumps({"schema": "pybox.grades/1", "answers": [one.to_json() for one in graded]}, indent=2))
    else:
        rows = [(visible(one.file), str(one.lesson), one.mark, _prediction(one), visible(one.why)) for one in graded]
        print(table([("FILE", "LESSON", "MARK", "PREDICTED", "WHY"), *rows]))
    marks = {one.mark for one in graded}
    return 1 if marks & {"not yet", "unreadable"} else 2 if "not here" in marks else 0


def _prediction(one: Graded) -> str:
    return f"{visible(one.predicted)}, {'right' if one.predicted == one.right else f'is {one.right}'}" if one.predicted else "-"


def quiz(where: Dirs, words: list[str]) -> int:
    """Print questions about this host's own plans."""
    parsed = parse_anywhere(QUIZ, words)
    if parsed.rest:
        raise SpecError("quiz", " ".join(parsed.rest), "takes options only")
    seed = parse_int("seed", parsed.one("seed"), 0, 1 << 62) or 0
    count = parse_int("count", parsed.one("count"), 1, 100) or 5
    shape = form(parsed, "text", "json")
    lab = bench(Runtime(where))
    asked = Quiz(lab.runtime.planner, lab.image, seed).questions(count)
    if shape == "json":
        listed = [question.to_json(number, parsed.has("answers")) for number, question in enumerate(asked, 1)]
        print(json.dumps({"schema": "pybox.quiz/1", "seed": seed, "questions": listed}, indent=2))
        return 0
    for number, question in enumerate(asked, 1):
        print(f"{number}. {question.text}")
        for letter, choice in zip("abcd", question.choices, strict=True):
            print(f"   {letter}) {visible(choice)}")
        print(f"   answer: {question.letter}   ({question.read})\n" if parsed.has("answers") else "")
    return 0


def _list() -> str:
    rows = [(str(task.number), task.name, task.title) for task in LESSONS]
    return table([("LESSON", "NAME", "TITLE"), *rows])


def _show(where: Dirs, task: Lesson) -> Iterator[str]:
    yield f"Lesson {task.number}: {task.title}\n"
    yield task.text
    yield f"\nPREDICT  {task.question}"
    for letter, choice in zip(LETTERS, task.choices, strict=False):
        yield f"    {letter}) {choice}"
    yield f"\nDO  {task.task}"
    if task.shown is not None:
        yield from task.shown(bench(Runtime(where)))
    yield f"\nREAD  {', '.join((*task.reading, *task.code))}"


def _begin(task: Lesson, path: str) -> str:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        begun = f"\nYour answer is in {visible(path)}, as you left it."
    except OSError as error:
        raise SpecError("file", path, str(error.strerror)) from None
    else:
        with os.fdopen(fd, "w") as file:
            file.write(task.answer(task.start))
        begun = f"\nA file for your answer, with what does not work yet: {visible(path)}"
    return f"{begun} Edit it, then:\n    pybox learn {task.number} --check {visible(path)}        (stuck? --hint)"


def _check(lab: Lab, task: Lesson, handed: Handed, shape: str) -> int:
    judged = judge(lab, task, handed)
    if shape == "json":
        print(json.dumps({"schema": "pybox.learn/1", **judged.to_json()}, indent=2))
    else:
        print("\n".join(_verdict(task, judged)))
    return 0 if judged.passed else 1


def _verdict(task: Lesson, judged: Judged) -> Iterator[str]:
    observed = judged.observed
    if observed is not None:
        said = (
            f"you said {judged.predict}"
            if judged.predict in LETTERS[: len(task.choices)] and judged.predict
            else "you made no prediction"
        )
        right = (
            "as it is"
            if judged.predict == observed.letter
            else f"it is {observed.letter}: {task.choices[LETTERS.index(observed.letter)]}"
        )
        yield f"PREDICTED  {said}; {right}\n    {visible(observed.evidence)}"
    for finding in judged.findings:
        yield f"{'ok ' if finding.ok else 'NOT'}  {visible(finding.says)}"
    if judged.said and not judged.passed:
        yield "your script wrote:"
        yield from (f"    {line}" for line in judged.said)
    yield f"Lesson {task.number}: {'passed' if judged.passed else 'not yet'}"
