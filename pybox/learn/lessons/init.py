"""Lesson 6: process 1 is special. It hears only what it listens to, and it is everybody's last parent."""

from __future__ import annotations

from time import monotonic

from pybox.learn.lab import Lab
from pybox.learn.lesson import Finding, Lesson, Mutant, Observed, either

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.learn.lab import Scene

_ORPHAN = "(sleep 0.03 &); exec sleep 1000"  # the subshell ends, and its child's new parent is process 1
_COMMAND = ("sh", "-c", _ORPHAN)
_LINE = f"busybox sh -c '{_ORPHAN}'"
_DEAF = 0.1  # seconds to wait for an end that should not come


def _listens(scene: Scene) -> bool:
    return bool(int(scene.one.status("SigCgt") or "0", 16) >> 14 & 1)  # bit 14 is signal 15


def _rest(scene: Scene) -> None:
    """Wait until the orphan has ended, too: it is asleep before, which is all that settle waits for."""
    limit = monotonic() + 0.5
    while monotonic() < limit:
        scene.settle()
        # by its command line, and not by its name: busybox runs sleep without an exec of its own
        others = [process for process in scene.processes() if process.host_pid != scene.process.pid and process.state != "Z"]
        if not any("0.03" in process.command for process in others):
            return


def _experiment(lab: Lab) -> Observed:
    with lab.standing(lab.spec("sleep", "1000", init=False)) as scene:
        scene.process.terminate()
        dead = scene.ended(_DEAF)
        code = scene.process.wait().exit_code if dead else 0
        return Observed(
            "a" if code == 143 else "b" if dead else "c",
            f"NSpid {' '.join(scene.one.status('NSpid').split())}, SigCgt {scene.one.status('SigCgt')}, state {scene.one.status('State')} after SIGTERM",
        )


def _check(lab: Lab, body: str) -> Iterator[Finding]:
    spec = lab.asked(body)
    if spec.args != _COMMAND and not (spec.args[:2] == ("sh", "-c") and "(sleep 0.03 &)" in spec.args[-1]):
        yield Finding(False, f"the command may get more around it, but has to leave its orphan: {_ORPHAN}")
        return
    with lab.standing(spec, theirs=True) as scene:
        _rest(scene)
        dead = [process for process in scene.everyone() if process.state == "Z" and process.host_pid != scene.process.pid]
        yield either(
            not dead,
            "no zombie: its orphan was waited for",
            f"a zombie: process 1 ({scene.one.status('Name')}) is its parent and never waits for it",
        )
        name, listens = scene.one.status("Name"), _listens(scene)
        scene.process.terminate()
        if not scene.ended(2.0 if listens else _DEAF):
            yield Finding(
                False,
                f"alive after SIGTERM: process 1 is {name}, and SigCgt {scene.one.status('SigCgt')} shows no handler for it",
            )
            return
        code = scene.process.wait().exit_code
        yield either(
            code == 143,
            "SIGTERM ended it, with status 143",
            f"SIGTERM ended it with status {code}: 143 would say that it was SIGTERM",
        )


LESSON = Lesson(
    number=6,
    name="init",
    title="Process 1 is special",
    text="""\
The first process of a PID namespace is its init, and the kernel treats it so. A signal from inside that it has no handler for is not
delivered, SIGKILL included; from outside, from a namespace above, SIGKILL and SIGSTOP work, and everything else only with a handler.
Default actions do not apply to it. Most programs leave SIGTERM to its default action, so as process 1 they are deaf to it: that is why
`docker stop` so often takes ten seconds and then kills.

And whoever loses their parent gets process 1 as a new one. A child that has ended is a zombie until its parent waits for it. A program
that knows nothing of that collects them.

pybox-init is a process 1 that forwards signals to its child and waits for whatever comes. When it ends, the kernel kills the rest.""",
    question="sleep is process 1 of a container (--no-init), and gets SIGTERM from the host. A moment later it is",
    choices=("dead, with status 143", "dead, with status 137", "alive"),
    key="c",
    task="This container is deaf to SIGTERM and keeps a zombie. Change the line so that SIGTERM ends it with status 143, and no zombie stays.",
    kind="run",
    start=f"pybox run --no-init {_LINE}",
    hint="One word less will do. What stands in for process 1 then?",
    solution=f"pybox run {_LINE}",
    mutants=(
        Mutant("SIGTERM kills my program", f"pybox run --no-init --stop-signal TERM {_LINE}", "alive after SIGTERM"),
        Mutant("the last of --init and --no-init does not matter", f"pybox run --init --no-init {_LINE}", "a zombie"),
        Mutant(
            "a handler is enough",
            "pybox run --no-init busybox sh -c 'trap \"exit 0\" TERM; (sleep 0.03 &); sleep 1000 & wait'",
            "ended it with status 0",
        ),
        Mutant("a root with more rights hears more", f"pybox run --no-init --cap-add ALL {_LINE}", "alive after SIGTERM"),
    ),
    experiment=_experiment,
    check=_check,
    reading=("pid_namespaces(7)", "signal(7)", "wait(2)"),
    code=("csrc/init.c", "pybox/supervise.py"),
)
