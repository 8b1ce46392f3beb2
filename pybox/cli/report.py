"""`pybox report`: a page about one run, which it makes and measures, or about a container that is there."""

from __future__ import annotations

import os
from time import time

from pybox import page
from pybox.cli.analyze import measured
from pybox.cli.foreground import tell
from pybox.cli.options import Option, parse, parse_anywhere
from pybox.dirs import Dirs
from pybox.errors import SpecError
from pybox.explain import evidence
from pybox.explain.redact import Redactor, home
from pybox.explain.report import html

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.explain.evidence import Evidence

REPORT = (
    Option(("-o", "--output"), "", "where to write the page", "FILE"),
    Option(("--no-redact",), "", "keep the values of variables and the paths of home directories"),
)


def report(where: Dirs, words: list[str]) -> int:
    """Write the page. Returns the exit status of the run that it has made, 0 for a container that was there."""
    parsed = parse(REPORT, words)
    if parsed.rest[:1] != ["run"]:
        parsed = parse_anywhere(REPORT, words)
    output = parsed.one("output")
    if not output:
        raise SpecError("report", "", "needs -o FILE", "pybox report -o report.html run --rm busybox true")
    # asked before the run: a page is written at its end
    place = output if os.path.exists(output) and not os.path.isfile(output) else os.path.dirname(output) or "."
    if os.path.isdir(output) or not os.access(place, os.W_OK):
        raise SpecError("output", output, "can't be written there")
    keep = parsed.has("no-redact")
    if parsed.rest[:1] == ["run"]:
        glance = evidence.Glance()
        spec, ready, found = measured(where, parsed.rest[1:], stdout=None, look=glance)
        _write(output, evidence.of_run(where, ready, found, glance), keep)
        if found.error is not None:
            raise found.error
        assert found.result is not None
        return tell(found.result, spec.limits.memory)
    if len(parsed.rest) != 1:
        hint = "pybox report -o FILE CONTAINER, or pybox report -o FILE run IMAGE COMMAND"
        raise SpecError("report", " ".join(parsed.rest), "must be a run or the name of a container", hint)
    _write(output, evidence.of_container(where, parsed.rest[0]), keep)
    return 0


def _write(path: str, found: Evidence, keep: bool) -> None:
    page.write(path, html(found, Redactor(found.env, home(), keep), time()))
