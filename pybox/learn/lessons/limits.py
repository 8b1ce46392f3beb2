"""Lesson 8: control groups. A limit is the group's, not the process's."""

from __future__ import annotations

from pybox.kernel.usage import account
from pybox.learn.lab import IDLE, Lab
from pybox.learn.lesson import CannotHere, Finding, Lesson, Mutant, Observed
from pybox.spec import Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


MEMORY, PIDS, CPUS = 64 << 20, 20, 0.5
_LINE = "busybox sleep 1000"


def _controllers(lab: Lab) -> frozenset[str]:
    """Return what limits can be made of here."""
    groups = lab.facts.cgroups
    return groups.controllers if groups.pure else frozenset(name for name, _ in groups.v1)


def _hog(lab: Lab) -> tuple[str, str]:
    """Let a process take four times what its group may have; returns how it ended, and the evidence."""
    scene = lab.start(
        lab.spec("dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1", limits=Limits(memory=16 << 20), best_effort=False)
    )
    with scene.process:
        result = scene.process.wait(30)
        return (
            result.reason,
            f"dd with a buffer of 64 MiB in a group that may have 16: {result.reason}, exit status {result.exit_code}",
        )


def _experiment(lab: Lab) -> Observed:
    if "memory" not in _controllers(lab):
        raise CannotHere("there is no memory controller for it", "limits")
    reason, evidence = _hog(lab)
    return Observed({"oom": "b", "exit": "a"}.get(reason, "c"), evidence)


def _check(lab: Lab, body: str) -> Iterator[Finding]:
    spec, there = lab.asked(body, IDLE), _controllers(lab)
    if "memory" not in there:
        raise CannotHere("there is no memory controller for it", "limits")
    with lab.standing(spec, theirs=True) as scene:
        held = account(scene.groups)
        yield Finding(held.memory_limit == MEMORY, f"memory of the group: {_bytes(held.memory_limit)}")
        if "pids" in there:
            yield Finding(held.pids_limit == PIDS, f"processes of the group: {held.pids_limit or 'no limit'}")
        else:
            yield _unseen(spec.limits.pids == PIDS, "pids", f"--pids-limit {spec.limits.pids}")
        if "cpu" in there:
            yield Finding(
                held.cpus == CPUS,
                f"time of the group: {f'{held.cpus:g} CPUs' if held.cpus else 'no ceiling; a weight counts only while others want the CPU, too'}",
            )
        else:
            yield _unseen(spec.limits.cpus == CPUS, "cpu", f"--cpus {spec.limits.cpus}")


def _unseen(ok: bool, controller: str, asked: str) -> Finding:
    return Finding(ok, f"the line says {asked}; this kernel has no {controller} controller to show it")


def _bytes(count: int | None) -> str:
    return "no limit" if count is None else f"{count} bytes"


LESSON = Lesson(
    number=8,
    name="limits",
    title="Limits are the group's",
    text="""\
A control group is a directory below /sys/fs/cgroup; a process is in one group of the tree, and its children are born there. Controllers
count what all processes of a group use together, and hold it to what its files say:

    memory.max        above it pages are reclaimed, and when that does not help, the kernel kills in the group: SIGKILL, status 137
    pids.max          fork fails with EAGAIN
    cpu.max           50000 100000 is 50 ms of CPU time in each 100 ms, all threads together; then everybody waits for the next 100

The older resource limits (ulimit, getrlimit(2)) are another thing: most are each process's own, so ten processes may have ten times as
much, and RLIMIT_NPROC counts all processes of a user, whichever container they are in. And what a program reads in /proc/meminfo is the
machine's: it does not see its limit there.

On a host with cgroup v1 the files have other names; `pybox explain run -m 64M ...` shows which ones this host has.""",
    question="A process needs 64 MiB. Its group may have 16 MiB. What happens?",
    choices=("malloc fails, and the program says so", "the kernel kills it: 137", "it waits until there is memory"),
    key="b",
    task="Let this container have 64 MiB of memory, 20 processes, and half of a CPU's time, all of it together.",
    kind="run",
    start=f"pybox run {_LINE}",
    hint="Three options of the group Limits; `pybox run --help` has them. 64M is a number of bytes.",
    solution=f"pybox run -m 64M --pids-limit 20 --cpus 0.5 {_LINE}",
    mutants=(
        Mutant(
            "ulimit limits a container",
            f"pybox run --ulimit as=67108864 --pids-limit 20 --cpus 0.5 {_LINE}",
            "memory of the group: no limit",
        ),
        Mutant("a weight is a ceiling", f"pybox run -m 64M --pids-limit 20 --cpu-shares 512 {_LINE}", ""),
        Mutant("RLIMIT_NPROC counts the container", f"pybox run -m 64M --ulimit nproc=20 --cpus 0.5 {_LINE}", ""),
        Mutant("memory is given in megabytes", f"pybox run -m 64 --pids-limit 20 --cpus 0.5 {_LINE}", "must be at least 512K"),
        Mutant("half of the CPUs is half of a CPU's time", f"pybox run -m 64M --pids-limit 20 --cpuset-cpus 0 {_LINE}", ""),
    ),
    experiment=_experiment,
    check=_check,
    reading=("cgroups(7)", "getrlimit(2)"),
    code=("pybox/kernel/cgroup.py", "pybox/kernel/usage.py"),
    needs=("limits",),
)
