"""`pybox run --trace`, `--step` and `--until`: a run in the foreground that is looked at while it is made."""

from __future__ import annotations

import json
import os

from pybox.cli.foreground import sweep, tell
from pybox.cli.forwarding import Forwarder
from pybox.cli.options import Parsed
from pybox.cli.run import BACKGROUND, open_output, options_of, spec_of
from pybox.cli.table import visible
from pybox.errors import PyboxError, SpecError
from pybox.explain.snapshot import SUBJECTS, Change, Shot, difference, take
from pybox.explain.stepping import Recorder, Walk
from pybox.joining import write_all
from pybox.seen import Seen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.dirs import Dirs
    from pybox.explain.stepping import Trace
    from pybox.planner import Planned
    from pybox.result import Result
    from pybox.runtime import Options
    from pybox.spec import Spec
    from pybox.steps.base import ChildStep

_KEYS = "[enter] go on   [w]hy   [d]iff to the host   [g]o to the end   [q]uit"


def run(where: Dirs, parsed: Parsed) -> int:
    """Run a container in one of these ways; returns the exit status for the shell."""
    if any(parsed.values.get(key) for key in BACKGROUND):
        raise SpecError("run", "", "--trace, --step and --until are for a run in the foreground, without -d and -t")
    if sum(bool(parsed.values.get(key)) for key in ("trace", "step", "until")) > 1:
        raise SpecError("run", "", "--trace, --step and --until go one at a time")
    spec, options = spec_of(parsed), options_of(parsed)
    if parsed.has("step"):
        return _step(where, spec, options)
    until = parsed.one("until")
    form = parsed.one("trace")
    out = parsed.one("trace-file")
    fd = 2 if out is None else open_output("trace-file", out)
    if form == "state":
        return _trace_state(where, spec, options, fd)

    def shell(ready: Planned) -> Planned:
        from pybox.explain.until import cut

        return cut(ready, until or "")

    recorder = Recorder(where, cut=None if until is None else shell)
    sweep(recorder)
    forwarder = Forwarder()
    try:
        result = recorder.run(spec, options.replace(woken=forwarder.woken), forwarder.started)
    finally:
        forwarder.stop()
        if form is not None:
            trace = recorder.trace()
            _say(fd, json.dumps(trace.to_chrome(os.getpid())) if form == "chrome" else _text(trace))
    return tell(result, spec.limits.memory)


def _say(fd: int, text: str) -> None:
    write_all(fd, f"{text}\n".encode("utf-8", "backslashreplace"))


def _text(trace: Trace) -> str:
    lines = []
    for step in trace.steps:
        at, took = (step.begun - trace.begun) / 1e6, (step.done - step.begun) / 1000
        lines.append(f"{at:>9.3f} ms {took:>8.1f} us {step.number:>4} {step.side:<6} {visible(step.describe)}")
    return "\n".join(lines)


def _trace_state(where: Dirs, spec: Spec, options: Options, fd: int) -> int:
    def look(walk: Walk, row: int, step: ChildStep, changes: list[Change]) -> bool:
        _say(fd, f"{len(walk.plan.prepare) + row + 1:>4} {visible(step.describe())}")
        for change in changes:
            _say(fd, f"         {visible(str(change))}")
        return True

    result = _walk(where, spec, options, look)
    return tell(result, spec.limits.memory)


def _walk(
    where: Dirs,
    spec: Spec,
    options: Options,
    look: Callable[[Walk, int, ChildStep, list[Change]], bool],
    before: Callable[[Walk, int, ChildStep], bool] | None = None,
) -> Result:
    """Walk a plan row by row. ``look`` hears of each row that is done and what it changed, ``before`` of each that is next: either
    says whether to stop at the next one, too."""
    walk = Walk(where, spec, options, gate=1)
    last: Shot = take(Seen(os.getpid()))
    done = 0
    try:
        while (row := walk.wait()) is not None:
            now = take(walk.seen)
            stop = True
            for passed in range(done, row):
                stop = look(walk, passed, walk.plan.inside[passed], difference(last, now) if passed == row - 1 else [])
            last, done = now, row
            if stop and before is not None:
                stop = before(walk, row, walk.plan.inside[row])
            walk.go(row + 1 if stop else 0)
            if not stop:
                break
    except BaseException:
        walk.abort()
        try:
            walk.result()
        except PyboxError:
            pass
        raise
    return walk.result()


class _Quit(PyboxError):
    """The person has seen enough."""


def _step(where: Dirs, spec: Spec, options: Options) -> int:
    guess = ""

    def before(walk: Walk, row: int, step: ChildStep) -> bool:
        nonlocal guess
        guess = ""
        number, total = len(walk.plan.prepare) + row + 1, len(walk.plan.prepare) + len(walk.plan.inside)
        _say(2, f"\n[{number}/{total}] {visible(step.describe())}")
        for call in step.calls():
            _say(2, f"        {visible(call)}")
        while True:
            word = _ask(f"predict what changes ({', '.join(SUBJECTS.values())}, or none), or {_KEYS}\n> ")
            if word in ("", "g", "go"):
                return word == ""
            if word in ("q", "quit"):
                raise _Quit("stopped by hand: the container is gone", None)
            if word in ("w", "why"):
                _say(2, f"{step.__doc__}\nman page: {step.man}")
            elif word in ("d", "diff"):
                for change in difference(take(Seen(os.getpid())), take(walk.seen)):
                    _say(2, f"  {visible(str(change))}")
            else:
                guess = next((subject for subject in (*SUBJECTS.values(), "none") if subject.startswith(word)), "")
                if guess:
                    return True
                _say(2, "one of the words above, or its beginning")

    def look(walk: Walk, row: int, step: ChildStep, changes: list[Change]) -> bool:
        for change in changes:
            _say(2, f"  {visible(str(change))}")
        if not changes:
            _say(2, "  (nothing that /proc shows from outside)")
        if guess:
            subjects = {change.subject for change in changes} or {"none"}
            _say(2, f"  you said {guess}: {'right' if guess in subjects else 'it was ' + ' and '.join(sorted(subjects))}")
        return True

    result = _walk(where, spec, options, look, before)
    return tell(result, spec.limits.memory)


def _ask(prompt: str) -> str:
    """Return a line from stdin, read byte by byte: what comes after it is the container's. End of file means: go to the end."""
    os.write(2, prompt.encode())
    line = b""
    while (byte := os.read(0, 1)) not in (b"\n", b""):
        line += byte
    return line.decode(errors="replace").strip().lower() if byte else "g"
