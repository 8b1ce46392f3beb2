"""`pybox why CODE`: what an error code means, and which of its causes this host has. And an error as JSON, where JSON was asked for."""

from __future__ import annotations

import os

from pybox.cli.options import parse_anywhere
from pybox.cli.table import FORMAT, form
from pybox.errors import PyboxError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pybox.dirs import Dirs
    from pybox.explain.why import Answer, Verdict

WHY = (FORMAT.replace(help="text (the default) or json"),)
_WORDS = {True: "probed true", False: "ruled out", None: "only the launch can tell"}


def why(where: Dirs, words: list[str]) -> int:
    """Print what a code means and what its probes say; without a code, all codes. Raises SpecError."""
    import json

    from pybox.codes import CODES

    parsed = parse_anywhere(WHY, words)
    shape = form(parsed, "text", "json")
    if len(parsed.rest) > 1:
        raise SpecError("why", " ".join(parsed.rest), "one code at a time", "pybox why alone lists them")
    if not parsed.rest:
        if shape == "json":
            print(json.dumps({"schema": "pybox.codes/1", "codes": {code.name: code.means for code in CODES.values()}}, indent=2))
        else:
            width = max(map(len, CODES)) + 2
            print("\n".join(f"{code.name:<{width}}{code.means}" for code in CODES.values()))
        return 0
    from pybox.explain.why import answer

    found = answer(where, parsed.rest[0])
    print(json.dumps(found.to_json(), indent=2) if shape == "json" else "\n".join(lines(found)))
    return 0


def lines(found: Answer) -> Iterator[str]:
    """Yield the text: what it means, what can fail so, and each cause with what its probe said."""
    yield f"{found.code.name}: {found.code.means}"
    if found.error and found.error.partition(" [")[0] not in found.code.means:
        yield f"    errno   {found.error}"
    if found.steps:
        yield f"    steps   {', '.join(kind.__name__ for kind in found.steps)}"
    if found.read:
        yield f"    read    {', '.join(found.read)}"
    for verdict in sorted(found.verdicts, key=lambda verdict: (True, None, False).index(verdict.true)):
        yield from _of_cause(verdict)
    if not found.verdicts and found.steps:
        yield "No cause is known for it: the manual page, and what the error line names, are where to look."
    elif found.verdicts and all(verdict.true is False for verdict in found.verdicts):
        yield "None of the known causes is there now."


def _of_cause(verdict: Verdict) -> Iterator[str]:
    yield f"{_WORDS[verdict.true]}: {verdict.cause.sentence}"
    if verdict.how:
        yield f"    tried   pybox doctor {verdict.cause.item}: {verdict.how}"
    if verdict.fix and verdict.true is not False:
        yield f"    fix     {verdict.fix.format(path='PATH')}"


def wants_json(words: Sequence[str]) -> bool:
    """Whether a command was asked for JSON: what belongs to a command inside is not looked at."""
    from pybox.cli.commands import own_words

    ours = own_words(words)
    return "--format=json" in ours or any(ours[at : at + 2] == ["--format", "json"] for at in range(len(ours)))


def complain_in_json(error: PyboxError) -> int:
    """Show a failure as one line of JSON on stderr; returns its exit status."""
    from pybox import fastjson
    from pybox.codes import to_json

    os.write(2, f"{fastjson.dumps(to_json(error))}\n".encode())
    return error.exit_code
