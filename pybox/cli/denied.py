"""`pybox why-denied -- run ...`: run a container as ever, and say at its end which system calls its filter refused."""

from __future__ import annotations

import json
import os

from pybox.cli.foreground import sweep, tell
from pybox.cli.forwarding import Forwarder
from pybox.cli.options import RUN, Option, parse
from pybox.cli.run import BACKGROUND, LOOKED_AT, open_output, options_of, spec_of, with_image
from pybox.cli.table import FORMAT, form
from pybox.errors import SpecError
from pybox.explain.denied import Watch
from pybox.joining import write_all
from pybox.shown import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pybox.dirs import Dirs
    from pybox.explain.denied import Denial

WHY_DENIED = (
    Option(("-o", "--output"), "", "write the report there, not to stderr", "FILE"),
    FORMAT.replace(help="text (the default) or json"),
)


def denied(where: Dirs, words: list[str]) -> int:
    """Run a container and tell what was refused; returns the command's own exit status. Raises SpecError."""
    ours = parse(WHY_DENIED, words)
    shape = form(ours, "text", "json")
    if ours.rest[:1] != ["run"]:
        raise SpecError(
            "why-denied", " ".join(ours.rest), "must be followed by a run", "pybox why-denied -- run busybox unshare -m true"
        )
    parsed = parse(RUN, ours.rest[1:])
    if any(parsed.values.get(key) for key in (*BACKGROUND, *LOOKED_AT, "status-file")):
        raise SpecError(
            "why-denied", "", "is for a run in the foreground, without -d, -t, --status-file and what looks at it otherwise"
        )
    spec, options = spec_of(parsed), options_of(parsed)
    if spec.seccomp == "unconfined":
        raise SpecError("security-opt", "seccomp=unconfined", "without a filter nothing is refused by it")
    path = ours.one("output")
    fd = 2 if path is None else open_output("output", path)
    watch = Watch(where, spec)
    sweep(watch)
    with_image(where, parsed, lambda: watch.planner.inputs(spec))
    forwarder = Forwarder()
    try:
        result = watch.watch(spec, options.replace(woken=forwarder.woken), forwarder.started)
    finally:
        forwarder.stop()
    found = watch.denials
    if shape == "json":
        document = {"schema": "pybox.denied/1", "exit_code": result.exit_code, "denied": [one.to_json() for one in found]}
        text = json.dumps(document, indent=2)
    else:
        text = "\n".join(lines(found))
    write_all(fd, f"{text}\n".encode("utf-8", "backslashreplace"))
    if path is not None:
        os.close(fd)
    return tell(result, spec.limits.memory)


def lines(found: Sequence[Denial]) -> Iterator[str]:
    """Yield the text."""
    if not found:
        yield "pybox: the seccomp filter refused nothing. What was not permitted was refused by the kernel itself: for want of a"
        yield "pybox: capability (--cap-add; capabilities(7)), by a file's mode, or by a mount that is read-only."
        return
    kinds = len({one.call.name for one in found})
    yield f"pybox: the seccomp filter refused {kinds} system call{'s' * (kinds != 1)}:"
    for one in found:
        call = one.call
        times = f"   {one.times} times" if one.times > 1 else ""
        yield f"  {call.name}({visible(call.arguments)}) = {call.errno}   by {visible(call.program)}{times}"
        yield f"      rule    {one.rule}"
        yield f"      allow   {one.allow}"
