"""`pybox build`: an image from a Containerfile. One line for each step on standard error, the image's id on standard output."""

from __future__ import annotations

import os
import sys

from pybox.cli import registry, run
from pybox.cli.images import size
from pybox.cli.options import RUN, Option, Parsed, parse_anywhere
from pybox.containerfile import api, stages
from pybox.containerfile.errors import RunFailed
from pybox.dirs import Dirs
from pybox.errors import ImageNotFound, PyboxError, SpecError
from pybox.image import store
from pybox.shown import visible

# Of the options of `run`, those that say what holds for the container of every RUN.
_OF_RUN = (
    "network memory memory-swap cpus cpu-shares cpuset-cpus pids-limit ulimit dns add-host allow-net net-rate volume cap-add cap-drop"
    " security-opt best-effort userns".split()
)
BUILD = (
    Option(
        ("-f", "--file"), "", "the Containerfile (CONTEXT/Containerfile, else CONTEXT/Dockerfile); - for standard input", "FILE"
    ),
    Option(("-t", "--tag"), "", "a name for the image", "NAME[:TAG]", True),
    Option(("--build-arg",), "", "a value for an ARG; without =VALUE the caller's variable", "NAME[=VALUE]", True),
    Option(("--target",), "", "build this stage, not the last", "STAGE"),
    Option(("--no-cache",), "", "make every step anew"),
    Option(("--pull",), "", "missing (the default), always or never: when to ask the registry for the images of FROM", "WHEN"),
    Option(("--label",), "", "a label on the image", "NAME=VALUE", True),
    Option(("--platform",), "", "this machine's, and no other", "PLATFORM"),
    Option(("--iidfile",), "", "write the image's id to a file", "FILE"),
    Option(("--progress",), "", "plain: show what each RUN writes as it comes; auto: only what a failed one wrote", "HOW"),
    Option(("-q", "--quiet"), "", "print the id and nothing else"),
    *(option for option in RUN if option.key in _OF_RUN),
)


class Lines:
    """Says what is done, a line a step: what it is when it begins, how long it took when it ends."""

    def __init__(self, plain: bool) -> None:
        self._plain, self._live = plain, os.isatty(2) and os.environ.get("TERM") != "dumb" and not plain
        self._head, self._broken = "", False

    def step(self, number: int, total: int, text: str) -> None:
        """A step begins."""
        shown = visible(text)
        self._head = f"[{number}/{total}] {shown if len(shown) <= 200 else shown[:197] + '...'}"
        _say(self._head[: _width()] if self._live else self._head + "\n" * self._plain)

    def line(self, line: bytes) -> None:
        """A RUN has written a line."""
        if self._plain:
            os.write(2, line if line.endswith(b"\n") else line + b"\n")

    def done(self, cached: bool, seconds: float) -> None:
        """The step has ended well."""
        self._end(f"  {'CACHED' if cached else f'{seconds:.2f}s'}\n")

    def failed(self) -> None:
        """The step that had begun has not."""
        if self._head:
            self._end("" if self._plain else "\n")

    def interrupted(self) -> None:
        """Somebody else is about to say something."""
        _say("\n" * (not self._plain))
        self._broken = not self._plain

    def _end(self, how: str) -> None:
        # a terminal has been shown what fits into one row of it
        _say(f"\r\x1b[K{self._head}{how}" if self._live else f"{self._head}{how}" if self._broken else how)
        self._head, self._broken = "", False


class Silence(Lines):
    """Says nothing."""

    def step(self, number: int, total: int, text: str) -> None:
        """Ignore."""

    def done(self, cached: bool, seconds: float) -> None:
        """Ignore."""

    def failed(self) -> None:
        """Ignore."""

    def interrupted(self) -> None:
        """Ignore."""


def _say(text: str) -> None:
    os.write(2, text.encode("utf-8", "backslashreplace"))


def _width() -> int:
    try:
        return max(20, os.get_terminal_size(2).columns - 1)
    except OSError:
        return 79


def build(where: Dirs, words: list[str]) -> int:
    """Build an image; prints its id."""
    import signal

    parsed = parse_anywhere(BUILD, words)
    asked, policy, quiet = _asked(parsed), store.check_pull(parsed.one("pull") or "missing"), parsed.has("quiet")
    how = parsed.one("progress") or "auto"
    if how not in ("auto", "plain"):
        raise SpecError("progress", how, "must be auto or plain")
    watch = Silence(plain=False) if quiet else Lines(how == "plain")
    # so that a build that is told to stop ends its container and its workspace itself
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    idfile = -1 if (path := parsed.one("iidfile")) is None else run.open_output("iidfile", path)

    def fetch(where: Dirs, name: str, absent: ImageNotFound | None) -> None:
        watch.interrupted()
        registry.bring(where, name, absent)

    try:
        built = asked.build(lambda name: api.bring(where, name, policy, None if quiet else fetch), watch)
    except RunFailed as error:
        watch.failed()
        if how != "plain":
            os.write(2, error.output + b"\n" * (not error.output.endswith(b"\n") and error.output != b""))
        raise
    except PyboxError:
        watch.failed()
        raise
    finally:
        if idfile >= 0 and sys.exc_info()[0] is not None:
            os.close(idfile)
    for note in built.notes:
        _say(f"pybox: note: {note}\n")
    if idfile >= 0:
        os.write(idfile, built.id.encode())
        os.close(idfile)
    if not quiet:
        found = store.stored(where, built.id)
        _say(f"{', '.join(built.names) or '<none>'}: {size(found.size)}, {built.cached} of {built.steps} steps cached\n")
    print(built.id)
    return 0


def _asked(parsed: Parsed) -> api.Asked:
    if len(parsed.rest) != 1:
        raise SpecError("build", " ".join(parsed.rest), "needs one context", "pybox build [-f FILE] [-t NAME] DIRECTORY")
    if parsed.rest[0] == "-":
        raise SpecError(
            "context", "-", "a context from standard input is not supported", "-f - reads the Containerfile from there"
        )
    platform = parsed.one("platform")
    if platform is not None and not stages.buildable(platform):
        here = f"only linux/{store.architecture()} can be built here"
        raise SpecError("platform", platform, here, "RUN needs programs that this machine can run")
    args = []
    for word in parsed.all("build-arg"):
        name, equals, value = word.partition("=")
        if not name:
            raise SpecError("build-arg", word, "must be NAME=VALUE or NAME")
        if equals or name in os.environ:
            args.append((name, value if equals else os.environ[name]))
    labels = [word.partition("=") for word in parsed.all("label")]
    if any(not name for name, _, _ in labels):
        raise SpecError("label", "", "must be NAME=VALUE")
    inner = Parsed()
    inner.values = {key: values for key, values in parsed.values.items() if key in _OF_RUN}
    inner.rest = ["none"]
    file: str | bytes = parsed.one("file") or ""
    if file == "-":
        if os.isatty(0):
            raise SpecError("file", "-", "standard input is a terminal", "pybox build -f - CONTEXT < Containerfile")
        with open(0, "rb", closefd=False) as source:  # not sys.stdin, which is None for who was started without one
            file = source.read(8 << 20)
    return api.Asked(
        context=parsed.rest[0],
        file=file,
        names=tuple(parsed.all("tag")),
        args=tuple(dict(args).items()),
        target=parsed.one("target") or "",
        cached=not parsed.has("no-cache"),
        labels=tuple((name, value) for name, _, value in labels),
        run=run.spec_of(inner),
    )
