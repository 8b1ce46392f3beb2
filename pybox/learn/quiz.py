"""Questions by seed. Each is made from something real (a plan of this host, an id map, a mask of capabilities), and its answer is
computed from the same thing: nobody has written it down. The same seed gives the same questions on the same host.
"""

from __future__ import annotations

from random import Random

from pybox.errors import PyboxError
from pybox.kernel.processes import inside_id
from pybox.native import capability
from pybox.record import Record
from pybox.result import verdict
from pybox.spec import Limits, Spec
from pybox.steps.base import HostStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pybox.fastjson import Json
    from pybox.plan import Plan
    from pybox.planner import Planner
    from pybox.steps.base import Step

CHOICES = 4
_ARGS = ("sleep", "1000")
_CHANGES: tuple[tuple[str, dict[str, object]], ...] = (
    ("--read-only", {"read_only": True}),
    ("--network host", {"network": "host"}),
    ("--no-init", {"init": False}),
    ("--userns", {"userns": True}),
    ("-w /tmp", {"workdir": "/tmp"}),
    ("-u 7:7", {"user": "7:7"}),
    ("--cap-drop ALL", {"cap_drop": ("ALL",)}),
    ("--security-opt seccomp=unconfined", {"seccomp": "unconfined"}),
    ("-m 64M", {"limits": Limits(memory=64 << 20)}),
)


class Question(Record):
    """One question. ``answer`` is the right one of the choices."""

    text: str
    choices: tuple[str, ...]
    answer: str
    read: str  # where it is written

    @property
    def letter(self) -> str:
        """The letter of the answer."""
        return "abcdefgh"[self.choices.index(self.answer)]

    def to_json(self, number: int, with_answer: bool) -> dict[str, Json]:
        """Return it as --format json shows it."""
        shown: dict[str, Json] = {"number": number, "question": self.text, "choices": list(self.choices)}
        return {**shown, "answer": self.letter, "read": self.read} if with_answer else shown


class Quiz:
    """Makes questions, about the plans of one host."""

    def __init__(self, planner: Planner, image: str, seed: int) -> None:
        self._random = Random(seed)
        self._planner = planner
        self._spec = Spec(image=image, args=_ARGS)
        self._plan = planner.plan(self._spec, True).plan

    def questions(self, count: int) -> list[Question]:
        """Return so many questions, of all kinds in turn; each is another one."""
        kinds: list[Callable[[], Question | None]] = [
            self.first,
            self.called,
            self.option,
            self.left,
            self.uid,
            self.capability,
            self.status,
            self.quota,
            self.page,
        ]
        self._random.shuffle(kinds)
        found: list[Question] = []
        texts: set[str] = set()
        for turn in range(count * 20):
            question = kinds[turn % len(kinds)]()
            if question is not None and question.text not in texts:
                texts.add(question.text)
                found.append(question)
            if len(found) == count:
                break
        return found

    def _ask(self, text: str, right: str, wrong: Sequence[str], read: str) -> Question | None:
        others = [choice for choice in dict.fromkeys(wrong) if choice != right]
        if len(others) < CHOICES - 1:
            return None
        choices = [right, *self._random.sample(others, CHOICES - 1)]
        self._random.shuffle(choices)
        return Question(text, tuple(choices), right, read)

    def _steps(self, plan: Plan | None = None) -> list[Step]:
        """Return the steps of a plan that are told apart by their words."""
        steps = [step for _, _, step in (plan or self._plan).steps()]
        words = [step.describe() for step in steps]
        return [step for step, word in zip(steps, words, strict=True) if words.count(word) == 1]

    def first(self) -> Question | None:
        """Which of four steps is done first?"""
        steps = self._steps()
        some = self._random.sample(range(len(steps)), CHOICES)
        right = steps[min(some)]
        listed = [steps[place].describe() for place in some]
        return self._ask("Which of these does `pybox run` do first?", right.describe(), listed, right.man)

    def called(self) -> Question | None:
        """Which step is this system call?"""
        # not those whose words are in the call: mount("mqueue", ...) is no question
        steps = [step for step in self._steps() if step.calls() and step.describe().split()[-1] not in step.calls()[0]]
        right = self._random.choice(steps)
        call = right.calls()[0]
        others = [step.describe() for step in steps if step.calls()[0] != call]
        return self._ask(f"What is this for?\n    {call[:160]}", right.describe(), others, right.man)

    def page(self) -> Question | None:
        """Which page of the manual is about it?"""
        right = self._random.choice(self._steps())
        pages = [step.man for step in self._steps() if step.man]
        return (
            self._ask(f"Where to read about this step: {right.describe()}?", right.man, pages, right.man) if right.man else None
        )

    def option(self) -> Question | None:
        """Which step does an option add, or take away?"""
        words, changes = self._random.choice(_CHANGES)
        try:
            other = self._planner.plan(self._spec.replace(**changes), True).plan
        except PyboxError:  # a limit that this host can't enforce
            return None
        before, after = self._steps(), self._steps(other)
        old, new = {step.describe() for step in before}, {step.describe() for step in after}
        added, gone = (
            [step for step in after if step.describe() not in old],
            [step for step in before if step.describe() not in new],
        )
        both = [step.describe() for step in before if step.describe() in new]
        if not added and not gone:
            return None
        right = self._random.choice(added or gone)
        text = f"Which step does {words} {'add to' if added else 'take out of'} the plan?"
        return self._ask(text, right.describe(), both, right.man)

    def left(self) -> Question | None:
        """What has to be undone after a SIGKILL?"""
        stays = [step for step in self._steps() if isinstance(step, HostStep) and step.leaves()]
        goes = [step.describe() for step in self._steps() if not isinstance(step, HostStep)]
        if not stays:
            return None
        right = self._random.choice(stays)
        text = "pybox is killed by SIGKILL, and its container dies with it. What did one of its steps leave for the next pybox to undo?"
        return self._ask(text, right.describe(), goes, right.man)

    def uid(self) -> Question | None:
        """What is an id inside, by a map?"""
        first, count = self._random.randrange(1000, 60000), self._random.randrange(2, 500)
        low = self._random.randrange(0, 1000)
        text = f"{low} {first} {count}\n{low + count} {first + 70000} {count}"
        outside = first + self._random.choice((-1, 0, count // 2, count - 1, 70000, 70000 + count))
        inside = inside_id(outside, text)
        right = "65534: it has no number there" if inside is None else str(inside)
        wrong = [
            str(outside),
            str(outside - first),
            str(low),
            str(low + count),
            str(low + count * 2),
            "65534: it has no number there",
        ]
        shown = text.replace("\n", "\n    ")
        return self._ask(
            f"uid_map, seen from the host:\n    {shown}\nWhich uid has a file of the host's {outside} inside?",
            right,
            wrong,
            "user_namespaces(7)",
        )

    def capability(self) -> Question | None:
        """Which capability is in a mask?"""
        most = self._planner.facts.last_cap + 1
        bits = self._random.sample(range(most), 3)
        others = [capability(bit) for bit in range(most) if bit not in bits]
        mask = sum(1 << bit for bit in bits)
        return self._ask(
            f"CapEff: {mask:016x}. Which capability has the process?", capability(bits[0]), others, "capabilities(7)"
        )

    def status(self) -> Question | None:
        """What does a wait status become for the shell?"""
        number = self._random.choice((1, 2, 6, 9, 11, 15))
        code = self._random.choice((1, 2, 3, 42, 126))
        status, what = self._random.choice(((number, f"signal {number} ended it"), (code << 8, f"it called exit({code})")))
        right = str(verdict(status, False, 0)[1])
        wrong = [str(number), str(128 + number), str(128 + code), str(code << 8 & 255), str(code), "125", "0"]
        return self._ask(f"The command of a container: {what}. What is the exit status of `pybox run`?", right, wrong, "wait(2)")

    def quota(self) -> Question | None:
        """How much time does --cpus give?"""
        cpus, threads = self._random.choice((0.1, 0.25, 0.5, 1.5, 2.0)), self._random.choice((2, 4, 8))
        milliseconds = [cpus * 100, cpus * 100 * threads, 100.0, cpus * 1000, cpus * 100 / threads, 100 * threads - cpus * 100]
        text = f"--cpus {cpus:g}, and {threads} threads that only compute. How much CPU time may they use in a period of 100 ms, all together?"
        return self._ask(text, f"{cpus * 100:g} ms", [f"{time:g} ms" for time in milliseconds], "cgroups(7)")
