"""Lesson 1: a container is a process of the host."""

from __future__ import annotations

import os

from pybox.learn.lab import IDLE, Lab
from pybox.learn.lesson import Finding, Lesson, Mutant, Observed
from pybox.seen import Seen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def _experiment(lab: Lab) -> Observed:
    with lab.standing(lab.spec(*IDLE)) as scene:
        found = scene.named("sleep")
        pids = [int(pid) for pid in found[0].status("NSpid").split()] if found else []
        chain = [seen.pid for seen in found[:1]]
        while chain and chain[-1] > 1 and chain[-1] != os.getpid():
            chain.append(int(Seen(chain[-1]).status("PPid") or 0))
        ours = chain[-1:] == [os.getpid()]
        evidence = f"on the host it is process {chain[0]}, inside {pids[-1]}; its ancestors are {' '.join(map(str, chain[1:]))}, and the last of them is this pybox"
        return Observed("c" if ours and len(pids) == 2 else "b", evidence)


def _check(lab: Lab, body: str) -> Iterator[Finding]:
    spec = lab.asked(body)
    with lab.standing(spec, theirs=True) as scene:
        if not scene.stands:
            yield Finding(False, "the container has ended with its process 1: nothing stands")
            return
        numbers = scene.one.status("NSpid").split()
        yield Finding(
            scene.one.private("pid") and len(numbers) == 2,
            f"one process, two numbers: {' on the host, '.join(numbers)} inside",
        )
        name = scene.one.status("Name")
        sleepers = scene.named("sleep")
        inside = sleepers[0].status("NSpid").split()[-1:] if sleepers else []
        if name == "sleep":
            says = "process 1 is sleep itself"
        elif not sleepers:
            says = f"no sleep runs: process 1 is {name or 'gone'}"
        else:
            says = f"process 1 is {name}, and sleep is process {''.join(inside)} below it"
        yield Finding(name == "sleep", says)
        everyone = scene.processes()
        yield Finding(
            len(everyone) == 1,
            f"{len(everyone)} process{'es' * (len(everyone) != 1)} in the container; a virtual machine would have begun with a kernel",
        )


LESSON = Lesson(
    number=1,
    name="process",
    title="A container is a process",
    text="""\
There is no machine in a container. `pybox run` makes a process whose view of the system is another one: clone(2) gives it new namespaces,
and exec puts your program there. The kernel is the host's, the process is in the host's list, and the host can kill it.

What is new is the numbers. In its own PID namespace the first process is 1. It has a second number, in the namespace above, by which
the host knows it. /proc/PID/status shows both, in the line NSpid.

Look for yourself, in two terminals:
    pybox run --rm busybox sleep 1000
    grep NSpid /proc/$(pgrep -xn sleep)/status

By default pybox puts a small program between: pybox-init, process 1, which starts your command as its child (lesson 6 says why).""",
    question="`pybox run busybox sleep 1000` runs. Where on the host is that sleep?",
    choices=(
        "nowhere: it is inside, and the host sees one process for the whole container",
        "below a daemon that keeps the containers",
        "among the other processes, as a descendant of that pybox",
    ),
    key="c",
    task="Write a `pybox run` line whose container is one single process: sleep itself is its process 1.",
    kind="run",
    start="pybox run busybox sh -c 'sleep 1000; true'",
    hint="Two things stand in between: pybox-init, which one option of the group Container leaves out, and the shell, which need not be there.",
    solution="pybox run --no-init busybox sleep 1000",
    mutants=(
        Mutant(
            "a container is what its command says: sleep is asked for, so sleep is process 1",
            "pybox run busybox sleep 1000",
            "process 1 is pybox-init",
        ),
        Mutant(
            "a shell that only starts something is no process",
            "pybox run --no-init busybox sh -c 'sleep 1000; true'",
            "process 1 is sh, and sleep is process 2",
        ),
        Mutant(
            "what runs in the background keeps the container",
            "pybox run --no-init busybox sh -c 'sleep 1000 &'",
            "nothing stands",
        ),
        Mutant(
            "process 1 is whoever the host calls so",
            "pybox run --no-init --pid host busybox sleep 1000",
            "--pid is not for this lesson",
        ),
    ),
    experiment=_experiment,
    check=_check,
    reading=("namespaces(7)", "pid_namespaces(7)", "clone(2)"),
    code=("pybox/runtime.py", "csrc/launch.c", "csrc/init.c"),
)
