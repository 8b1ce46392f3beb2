"""`pybox cp`, `diff`, `export`, `commit`: the files of containers. None is on the way of `run`."""

from __future__ import annotations

import json
import os
import sys

from pybox.cli.options import Option, parse_anywhere
from pybox.dirs import Dirs
from pybox.errors import SpecError
from pybox.files import copying, reach
from pybox.files.copying import Wish
from pybox.spec import no_nul

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

_ARCHIVE = Option(("-a", "--archive"), "", "keep owners (by number), set-user-ID bits and capabilities")
CP = (
    _ARCHIVE,
    Option(("-L", "--follow-link"), "", "copy what the source leads to, where it is a symbolic link"),
    Option(("-q", "--quiet"), "", "say nothing of what was left out"),
)
DIFF = (
    Option(("--format",), "", "json or text", "FORMAT"),
    Option(("--host",), "", "show the container beside the host, and what they share"),
)
EXPORT = (Option(("-o", "--output"), "", "write to a file, not to standard output", "FILE"),)
COMMIT = (
    Option(("-m", "--message"), "", "say why, in the image's history", "TEXT"),
    Option(("-a", "--author"), "", "who made it", "TEXT"),
    Option(
        ("-c", "--change"), "", "CMD, ENTRYPOINT, ENV, USER, WORKDIR, LABEL or EXPOSE, as in a Dockerfile", "INSTRUCTION", True
    ),
    Option(("-p", "--pause"), "", "freeze a running container meanwhile (the default; --pause=false)"),
)


def _split(word: str) -> tuple[str, str]:
    """Return (container, path) of an argument of cp; the container is "" for a path of the host. Docker's rule."""
    no_nul("cp", word)
    if word.startswith(("/", ".")) or ":" not in word:
        return "", word
    container, _, path = word.partition(":")
    return container, path


def cp(where: Dirs, words: list[str]) -> int:
    """Copy files between the host and a container."""
    parsed = parse_anywhere(CP, words)
    if len(parsed.rest) != 2:
        raise SpecError("cp", " ".join(parsed.rest), "needs a source and a destination", "pybox cp CONTAINER:PATH FILE|-")
    (from_, source), (to, target) = map(_split, parsed.rest)
    if bool(from_) == bool(to):
        hint = "pybox cp ONE:PATH - | pybox cp - OTHER:PATH" if to else "say which is in the container: CONTAINER:PATH"
        raise SpecError("cp", " ".join(parsed.rest), "one of the two must be in a container", hint)
    if not (source and target):
        raise SpecError("cp", " ".join(parsed.rest), "a path is empty")
    wish = Wish(archive=parsed.has("archive"), follow=parsed.has("follow-link"))
    if target == "-" and os.isatty(1):
        raise SpecError("cp", "-", "standard output is a terminal, not a place for a tar", "pybox cp CONTAINER:PATH - > FILE")
    with reach.reached(where, from_ or to) as found:
        notes = copying.copy_out(found, source, target, wish) if from_ else copying.copy_in(found, source, target, wish)
    if not parsed.has("quiet"):
        _tell(notes)
    return 0


def export(where: Dirs, words: list[str]) -> int:
    """Write the root of a container as a tar."""
    parsed = parse_anywhere(EXPORT, words)
    output = parsed.one("output")
    if len(parsed.rest) != 1:
        raise SpecError("export", " ".join(parsed.rest), "needs one container", "`pybox ps -a` lists them")
    if output in (None, "-") and os.isatty(1):
        raise SpecError("export", "-", "standard output is a terminal, not a place for a tar", "pybox export -o FILE CONTAINER")
    with reach.reached(where, parsed.rest[0]) as found:
        notes = copying.export(found, 1) if output in (None, "-") else copying.export_to(found, str(output))
    _tell(notes)
    return 0


def diff(where: Dirs, words: list[str]) -> int:
    """List what a container changed."""
    from pybox.files import changes

    if "--host" in words:
        from pybox.cli.compare import compare

        return compare(where, words)
    parsed = parse_anywhere(DIFF, words)
    form = parsed.one("format") or "text"
    if len(parsed.rest) != 1 or form not in ("json", "text"):
        raise SpecError("diff", " ".join(words), "must be [--format json|text] CONTAINER")
    with reach.reached(where, parsed.rest[0]) as found:
        rows = changes.changed(found)
    if form == "json":
        print(json.dumps([{"kind": row.kind, "path": os.fsdecode(row.path)} for row in rows], indent=2))
    else:
        sys.stdout.flush()
        for row in rows:
            line = f"{row.kind} ".encode() + row.path
            sys.stdout.buffer.write(line.replace(b"\\", b"\\\\").replace(b"\n", b"\\n") + b"\n")
    return 0


def commit(where: Dirs, words: list[str]) -> int:
    """Make an image of a container."""
    from pybox.files import commit as making

    parsed = parse_anywhere(COMMIT, words)
    if len(parsed.rest) != 2:
        raise SpecError("commit", " ".join(parsed.rest), "needs a container and a name", "pybox commit CONTAINER NAME[:TAG]")
    wish = making.Wish(
        name=parsed.rest[1],
        message=parsed.one("message") or "",
        author=parsed.one("author") or "",
        changes=tuple(parsed.all("change")),
        pause=parsed.one("pause") in (None, ""),
    )
    making.check(wish)
    with reach.reached(where, parsed.rest[0]) as found:
        image, notes = making.commit(found, wish)
    print(image)
    _tell(notes)
    return 0


def _tell(notes: list[str]) -> None:
    for line in notes:
        os.write(2, f"pybox: note: {line}\n".encode("utf-8", "backslashreplace"))
