"""SIGKILL at any moment: what a dead pybox leaves is found in its journal and undone by the next one.

The moments are enumerated from the plan itself. On the host's side a process kills itself between two steps; on the inside the
new process is held at a row (a write to a full pipe blocks), and then pybox, which sleeps until it execs, is killed from outside.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from harness import PURE_V2, cli, eventually

from pybox import dirs, listing, state
from pybox.explain.stepping import Recorder
from pybox.planner import Planned, ready_of
from pybox.runtime import Options, Runtime
from pybox.spec import Limits, Mount, Spec
from pybox.steps.base import ChildStep, Desk, HostStep
from pybox.steps.process import Clone
from pybox.steps.rights import SetUid
from pybox.undo import undo


class Die(HostStep):
    """A step that ends the process that makes it."""

    def apply(self, desk: Desk) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Gate(ChildStep):
    """Two rows: one fills the pipe that is its stderr, which tells that it is here; at the other it waits until it is read."""

    def lower(self, table: object) -> None:
        table.row("PB_WRITE_FD", fd=table.slot("stderr"), a=table.text("x"))  # type: ignore[attr-defined]
        table.row("PB_WRITE_FD", fd=table.slot("stderr"), a=table.text("x"))  # type: ignore[attr-defined]


SPECS = {
    "default": (Spec(image="busybox", args=("sleep", "60")), False),
    "kept and limited": (
        Spec(
            image="busybox",
            args=("sleep", "60"),
            limits=Limits(memory=64 << 20, pids=16),
            mounts=(Mount("/data", source="/etc"),),
        ),
        True,
    ),
    "no init, on disk": (Spec(image="busybox", args=("sleep", "60"), init=False, upper="disk"), False),
    "user namespace": (Spec(image="busybox", args=("sleep", "60"), userns=True), False),
}
CASES = pytest.mark.parametrize(("spec", "keep"), SPECS.values(), ids=SPECS.keys())


@contextlib.contextmanager
def fork() -> Iterator[int]:
    """A child that runs the body once (pid 0) and never comes back from it."""
    pid = os.fork()
    if pid == 0:
        try:
            yield 0
        except BaseException as error:
            os.write(1, f"the doomed pybox failed by itself: {error!r}\n".encode())
        finally:
            os._exit(99)
    yield pid


def leftovers(where: dirs.Dirs) -> list[str]:
    """Return what is in the state directory and among the writable layers."""
    found = [name for name in os.listdir(where.state) if name != "names"]
    return (
        found + os.listdir(where.uppers) + (os.listdir(f"{where.store}/names") if os.path.isdir(f"{where.store}/names") else [])
    )


def swept_clean(where: dirs.Dirs) -> None:
    """Assert that a sweep, which is what `pybox gc` and the next run do, mends everything, and a second one finds nothing to do."""
    state.sweep(where)
    assert leftovers(where) == []
    assert state.sweep(where) == []


@CASES
def test_sigkill_between_any_two_steps_on_the_host_leaves_nothing_after_gc(store: dirs.Dirs, spec: Spec, keep: bool) -> None:
    steps = len(Runtime(store).plan(spec, keep).prepare)
    for moment in range(steps + 1):
        with fork() as pid:
            if pid == 0:
                mine = Runtime(store)
                ready = mine.planner.ready(spec, keep)
                broken = ready.replace(prepare=(*ready.prepare[:moment], Die(), *ready.prepare[moment:]))
                mine.planner.ready = lambda spec, keep, broken=broken: broken  # type: ignore[method-assign, assignment]
                mine.run(spec, Options(keep=keep, name="doomed"))
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL, moment
        assert leftovers(store) != []
        swept_clean(store)


@CASES
def test_sigkill_at_any_row_inside_leaves_no_process_and_nothing_after_gc(store: dirs.Dirs, spec: Spec, keep: bool) -> None:
    rows = len(Runtime(store).plan(spec, keep).inside)
    # each row on this kernel; on the slow one (User Mode Linux) a sample, for the rows are the same
    for moment in range(1, rows, 11 if PURE_V2 else 1):
        if moment == rows - 1 and spec.init:
            continue  # the last row is pybox-init's, in a process of its own: the next test
        others = set(descendants(os.getpid()))
        reader, writer = full_pipe()
        with fork() as pid:
            if pid == 0:
                os.dup2(writer, 2)
                mine = Runtime(store)
                ready = mine.planner.ready(spec, keep)
                plan = ready.plan.replace(inside=(*ready.plan.inside[:moment], Gate(), *ready.plan.inside[moment:]))
                broken = ready_of(ready.given, plan, ready.asked)
                mine.planner.ready = lambda spec, keep, broken=broken: broken  # type: ignore[method-assign, assignment]
                mine.run(spec, Options(keep=keep, name="doomed"))
        held = eventually_held(pid, reader)
        assert held, moment
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        os.close(writer)
        os.read(reader, 65536)  # the gate opens: the new process goes on, alone in the world
        assert eventually(lambda held=held, others=others: all(gone(child) for child in held) and no_orphans(others)), (
            moment,
            held,
        )
        os.close(reader)
        swept_clean(store)


@pytest.mark.parametrize("where", [Clone, SetUid], ids=lambda kind: f"after {kind.__name__}")
@pytest.mark.parametrize("userns", [False, True], ids=["", "user namespace"])
def test_sigkill_before_a_gate_is_reached_leaves_nobody_waiting_there(
    store: dirs.Dirs, where: type[ChildStep], userns: bool
) -> None:
    """`run --step`: the new process comes to the gate when it is too late to ask to die with pybox."""
    spec = Spec(image="busybox", args=("sleep", "60"), userns=userns)
    kinds = [type(step) for step in Runtime(store).plan(spec, False).inside]
    moment = len(kinds) - kinds[::-1].index(where)  # of two clones, the second

    def held(planned: Planned) -> Planned:
        plan = planned.plan.replace(inside=(*planned.plan.inside[:moment], Gate(), *planned.plan.inside[moment:]))
        return planned.replace(plan=plan, program=plan.lower())

    def shut_gate(recorder: Recorder) -> None:
        eventually(lambda: full(reader))
        recorder.report.gate = moment + 2
        os.write(said, b"shut")

    others = set(descendants(os.getpid()))
    reader, writer = full_pipe()
    heard, said = os.pipe()
    with fork() as pid:
        if pid == 0:
            os.dup2(writer, 2)
            recorder = Recorder(store, cut=held)  # no gate yet, at which it would ask before the row that it is held at
            Thread(target=shut_gate, args=(recorder,)).start()
            recorder.run(spec, Options())
    os.close(said)
    assert os.read(heard, 4) == b"shut"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(writer)
    os.read(reader, 65536)
    assert eventually(lambda: no_orphans(others), 5)
    os.close(reader), os.close(heard)
    swept_clean(store)


def full_pipe() -> tuple[int, int]:
    """Return both ends of a pipe that takes one more byte."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"." * 4095)
    return reader, writer


def full(pipe: int) -> bool:
    """Return whether a pipe of one page is full."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4), sys.byteorder) == 4096


def eventually_held(pid: int, pipe: int) -> list[int]:
    """Wait until the pipe is full, for then a descendant of pybox sits at the gate; return all descendants."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if full(pipe):
            return descendants(pid)
        if os.waitpid(pid, os.WNOHANG)[0]:
            raise AssertionError("pybox ended before the gate")
        time.sleep(0.002)
    raise AssertionError("nobody came to the gate")


def descendants(pid: int) -> list[int]:
    """Return the children of a process, and theirs."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def gone(pid: int) -> bool:
    """Return whether a process has ended; reaps it if it has become ours."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return not os.path.exists(f"/proc/{pid}")


def no_orphans(others: set[int]) -> bool:
    """Return whether nothing has become ours but these: a process that went on alone may have cloned another before it ended."""
    return all(gone(child) for child in set(descendants(os.getpid())) - others)


@CASES
def test_sigkill_while_the_command_runs_ends_it_and_leaves_nothing_after_gc(store: dirs.Dirs, spec: Spec, keep: bool) -> None:
    reader, writer = os.pipe()
    with fork() as pid:
        if pid == 0:
            Runtime(store).run(spec, Options(keep=keep), lambda child, identity: os.write(writer, b"%d" % child.pid) and None)
    child = int(os.read(reader, 100))
    os.close(reader), os.close(writer)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert eventually(lambda: gone(child))
    swept_clean(store)


@CASES
def test_sigkill_before_any_undo_leaves_nothing_after_gc(
    store: dirs.Dirs, spec: Spec, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec.replace(args=("true",))
    leaves = len(Runtime(store).plan(spec, keep).leaves())
    for moment in range(leaves + 1):
        count = [0]

        def undo_or_die(verb: str, path: str, moment: int = moment, count: list[int] = count) -> None:
            if count[0] == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
            undo(verb, path)

        with fork() as pid:
            if pid == 0:
                monkeypatch.setattr("pybox.undo.undo", undo_or_die)
                Runtime(store).run(spec, Options(keep=keep, name="" if keep else "doomed"))
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        if keep:  # it had ended and is listed: only `rm` may forget it
            (entry,) = listing.entries(store)
            assert entry.status == "exited"
            assert cli("rm", entry.identity).returncode == 0
        swept_clean(store)


def test_gc_leaves_alone_what_is_alive(store: dirs.Dirs) -> None:
    ready, writer = os.pipe()
    with fork() as pid:
        if pid == 0:
            spec = Spec(image="busybox", args=("sleep", "60"), upper="disk", limits=Limits(pids=9))
            Runtime(store).run(spec, Options(), lambda child, identity: os.write(writer, identity.encode()) and None)
    identity = os.read(ready, 12).decode()
    os.close(ready), os.close(writer)
    assert cli("gc").stdout == "nothing to clean up\n"
    assert os.path.isdir(f"{store.uppers}/{identity}")
    assert listing.find(store, identity).status == "running"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert eventually(lambda: listing.find(store, identity).status == "dead")
    done = cli("gc")
    assert done.returncode == 0 and f"{identity}: its pybox was killed; forgotten" in done.stdout
    swept_clean(store)
