"""The course as a directory: what learners get, and apart from it what teachers keep."""

from __future__ import annotations

import os

from pybox.errors import SpecError
from pybox.learn.course import LESSONS
from pybox.learn.lesson import LETTERS, Lesson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_README = """\
# Containers, in twelve lessons

Each lesson is a text, a question to be answered by a prediction before anything is run, and a task. The file of a task is edited and
handed in; `# predict: LETTER` in it is the prediction.

    pybox learn 6 --check lesson-06.txt      a learner's own check, on any machine with pybox
    pybox learn grade DIRECTORY              a teacher's: all files called lesson-* below it
    pybox quiz --seed 1 --answers            questions from this machine's own plans

| lesson | task | |
| --- | --- | --- |
"""
_GRADING = """
`teacher/` has solutions, and for each task the wrong answers that its check is tested with, each with the belief behind it. Don't hand it
out. A check looks at what the kernel shows of the container that the answer made; the answer's own output counts for nothing.
"""


def text_of(task: Lesson) -> str:
    """Return what a learner reads, as Markdown."""
    choices = "\n".join(f"- {letter}) {choice}" for letter, choice in zip(LETTERS, task.choices, strict=False))
    read = ", ".join((*task.reading, *(f"`{file}`" for file in task.code)))
    shown = f"\n`pybox learn {task.number}` shows what this is about, made on your machine.\n" if task.shown else ""
    return (
        f"# {task.number}. {task.title}\n\n{task.text}\n\n## Predict\n\n{task.question}\n\n{choices}\n\n"
        f"## Do\n\n{' '.join(task.task.split())}\n{shown}\nThe file for it: `tasks/{task.file}`.\n\nRead: {read}.\n"
    )


def notes_of(task: Lesson) -> str:
    """Return what a teacher reads, as Markdown."""
    wrong = "\n".join(
        f"\n### {mutant.belief}\n\n{_block(mutant.answer)}\n" + (f"The check says: {mutant.says}\n" if mutant.says else "")
        for mutant in task.mutants
    )
    return (
        f"# {task.number}. {task.title}: for teachers\n\nRight prediction: {task.key}) {task.choices[LETTERS.index(task.key)]}\n\n"
        f"Hint: {task.hint}\n\nNeeds of the host: {', '.join(f'`pybox doctor {item}`' for item in task.needs)}\n\n"
        f"## A solution\n\n{_block(task.solution)}\n\n## What goes wrong, and why\n{wrong}"
    )


def _block(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def files() -> Iterator[tuple[str, str]]:
    """Yield (name, text) of all files of the course."""
    listed = [
        f"| [{task.number}. {task.title}](lessons/{_stem(task)}.md) | `tasks/{task.file}` | {task.kind} |" for task in LESSONS
    ]
    yield "README.md", _README + "\n".join(listed) + "\n" + _GRADING
    for task in LESSONS:
        yield f"lessons/{_stem(task)}.md", text_of(task)
        yield f"tasks/{task.file}", task.answer(task.start)
        yield f"teacher/{_stem(task)}.md", notes_of(task)
        yield f"teacher/solutions/{task.file}", task.answer(task.solution, task.key)


def _stem(task: Lesson) -> str:
    return f"{task.number:02}-{task.name}"


def write(folder: str) -> int:
    """Write the course to a directory that is new or empty; returns the number of files. Raises SpecError."""
    try:
        os.makedirs(folder, exist_ok=True)
        if os.listdir(folder):
            raise SpecError("export", folder, "is not empty", "name a directory that is not there yet")
        count = 0
        for name, text in files():
            os.makedirs(os.path.dirname(f"{folder}/{name}"), exist_ok=True)
            with open(f"{folder}/{name}", "x", encoding="utf-8") as file:
                file.write(text)
            count += 1
    except OSError as error:
        raise SpecError("export", error.filename or folder, str(error.strerror)) from None
    return count
