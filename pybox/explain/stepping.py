"""A run that is looked at while it is made: when each step was done, and a gate before any step of the new process.

The launch blocks its thread until the command runs, so it happens in a thread of its own, and the caller holds the gate:

    walk = Walk(where, spec, options, gate=row)
    while (row := walk.wait()) is not None:   # the row that waits; what is before it is done, and walk.seen shows it
        walk.go(row + 1)
    result = walk.result()

Times come from the C walk, which writes one for each row in any case; only the steps on the host are timed here.
"""

from __future__ import annotations

import os
from threading import Event, Thread
from time import monotonic_ns
from typing import cast

from pybox import native
from pybox.failures import StepFailed
from pybox.planner import Planned, Planner
from pybox.record import Record
from pybox.runtime import Options, Runtime
from pybox.seen import Seen
from pybox.steps.base import Desk, HostStep
from pybox.steps.process import BecomeInit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from pybox.dirs import Dirs
    from pybox.fastjson import Json
    from pybox.plan import Plan
    from pybox.planner import Reach
    from pybox.ready import Ready
    from pybox.result import Result
    from pybox.spec import Spec

OVER = 65535  # PB_OVER


class Timed(Record):
    """One step and when it was done: nanoseconds of CLOCK_MONOTONIC."""

    number: int
    side: str
    describe: str
    call: str
    begun: int
    done: int


class Trace(Record):
    """The steps of one launch with their times; those that were not reached are absent."""

    identity: str
    steps: tuple[Timed, ...]

    @property
    def begun(self) -> int:
        """The time when the first step began."""
        return self.steps[0].begun if self.steps else 0

    def to_chrome(self, pid: int) -> dict[str, Json]:
        """Return it in the trace-event format, which Perfetto and chrome://tracing read: microseconds, one track a side."""
        tracks = {"host": 1, "inside": 2}
        names: list[Json] = [
            {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": f"steps {side}"}}
            for side, tid in tracks.items()
        ]
        names.append({"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": f"pybox run {self.identity}"}})
        events: list[Json] = [
            {
                "ph": "X",
                "name": step.describe,
                "cat": step.side,
                "pid": pid,
                "tid": tracks[step.side],
                "ts": step.begun / 1000,
                "dur": (step.done - step.begun) / 1000,
                "args": {"step": step.number, "call": step.call},
            }
            for step in self.steps
        ]
        return {"traceEvents": [*names, *events], "displayTimeUnit": "ns"}


class _Timing:
    """A step on the host that notes when it was done; in all else it is that step."""

    def __init__(self, step: HostStep, note: Callable[[int, int], None]) -> None:
        self.step, self._note = step, note

    def __getattr__(self, name: str) -> Any:
        return getattr(self.step, name)

    def apply(self, desk: Desk) -> None:
        begun = monotonic_ns()
        self.step.apply(desk)
        self._note(begun, monotonic_ns())


class Recorder(Runtime):
    """A Runtime that keeps the times of its last launch. ``gate``: the row that is the first to wait, 0 for none."""

    def __init__(self, where: Dirs | None = None, gate: int = 0, cut: Callable[[Planned], Planned] | None = None) -> None:
        super().__init__(where)
        if cut is not None:
            self._planner = _Cutter(self.dirs, self.facts, cut)
        self.gate = gate
        self.launching: Callable[[], object] = bool  # called when the gate can be waited at
        self.plan_made: Plan | None = None
        self.identity = ""
        self.report: Any = None
        self.resumed: dict[int, int] = {}  # row: when it was let go on, for those that waited
        self._host: list[tuple[int, int]] = []

    def clone(self, ready: Ready, desk: Desk, fds: dict[str, int]) -> tuple[native.Child, int]:
        """Launch as Runtime does, with each step on the host timed."""
        self._host = []
        self.report = native.ffi.new("struct pb_report *")
        self.report.gate = self.gate
        self.plan_made, self.identity = ready.planned(self.planner).plan, desk.identity
        prepare = cast("tuple[HostStep, ...]", tuple(_Timing(step, self._note) for step in ready.prepare))
        try:
            return super().clone(ready.replace(prepare=prepare), desk, fds)
        except StepFailed as error:
            error.step = getattr(error.step, "step", error.step)
            raise
        finally:
            native.lib.pb_end_gate(self.report)  # a step on the host failed, perhaps: nobody will come to the gate

    def begin(  # type: ignore[override]  # Runtime has a function there, this is a method
        self, program: native.Program, identity: str, fds: Mapping[str, int], leash: tuple[int, int], init: bool
    ) -> native.Child | native.Failure:
        """Launch with a report that the caller can look at."""
        self.launching()
        return native.launch(program, identity, fds, leash, init, self.report)

    def close(self) -> None:
        """Close what it keeps for its next run: there will be none."""
        for fd in self.reuse.values():
            os.close(fd)
        self.reuse.clear()

    def _note(self, begun: int, done: int) -> None:
        self._host.append((begun, done))

    def trace(self) -> Trace:
        """Return the times of the last launch."""
        plan = self.plan_made
        if plan is None:
            return Trace(self.identity, ())
        found = []
        last = int(self.report.begun)
        for number, side, step in plan.steps():
            if side == "host":
                if number > len(self._host):
                    break
                begun, done = self._host[number - 1]
            else:
                row = number - len(plan.prepare) - 1
                begun, done = max(last, self.resumed.get(row, 0)), int(self.report.done[row])
                if isinstance(step, BecomeInit):  # it tells no time of its own: it is heard when the command runs
                    done = int(self.report.done[row + 1])
                if not done:
                    continue
                last = done
            found.append(Timed(number, side, step.describe(), step.call, begun, done))
        return Trace(self.identity, tuple(found))


class _Cutter(Planner):
    """A Planner whose plans are changed before they are launched."""

    def __init__(self, where: Dirs, facts: Any, cut: Callable[[Planned], Planned]) -> None:
        super().__init__(where, facts)
        self._cut = cut

    def plan(
        self, spec: Spec, keep: bool, managed: bool = False, reach: Reach | None = None, disk: bool | None = None
    ) -> Planned:
        """Return the changed plan."""
        return self._cut(super().plan(spec, keep, managed, reach, disk))


class Walk:
    """A run in a thread of its own, with a gate that the caller holds."""

    def __init__(
        self, where: Dirs, spec: Spec, options: Options, gate: int, cut: Callable[[Planned], Planned] | None = None
    ) -> None:
        self.recorder = Recorder(where, gate, cut)
        self._spec, self._options = spec, options
        self._result: Result | BaseException | None = None
        self._launching = Event()
        self._thread = Thread(target=self._run)
        self.recorder.launching = self._launching.set
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self.recorder.run(self._spec, self._options)
        except BaseException as error:  # raised again in result(), in the caller's thread
            self._result = error
        finally:
            self._launching.set()

    @property
    def plan(self) -> Plan:
        """The plan that is walked."""
        assert self.recorder.plan_made is not None
        return self.recorder.plan_made

    @property
    def seen(self) -> Seen:
        """The process that waits at the gate."""
        report = self.recorder.report
        return Seen(report.pid or report.first, self.recorder.identity)

    def wait(self) -> int | None:
        """Wait until a row waits at the gate; returns it, or None when the launch is over, well or not."""
        self._launching.wait()
        if self.recorder.report is None:
            return None
        row = int(native.lib.pb_at_gate(self.recorder.report))
        return None if row == OVER else row

    def go(self, row: int) -> None:
        """Let it go on up to a row; 0 for all of the way."""
        waiting = int(self.recorder.report.waiting)
        self.recorder.resumed[waiting] = monotonic_ns()
        native.lib.pb_open_gate(self.recorder.report, row)

    def abort(self) -> None:
        """Kill the process at the gate: the run fails in this step, and what was made on the host is undone."""
        report = self.recorder.report
        # once the launch is over the pid may be reaped and another's; and 0, which no clone has made yet, is our own group
        if report is not None and report.waiting != OVER and self.seen.pid > 0:
            os.kill(self.seen.pid, 9)

    def result(self) -> Result:
        """Wait for the end of the run. Raises what it raised."""
        self._thread.join()
        self.recorder.close()
        if isinstance(self._result, BaseException):
            raise self._result
        assert self._result is not None
        return self._result
