"""The command line's edge: the only place that catches, prints and exits. Exit status 125 is pybox's own failure."""

from __future__ import annotations

import posix as os
import sys

from pybox import bundle, dirs
from pybox.errors import PyboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pybox.cli.commands import Command


def main() -> NoReturn:
    """Run the command that the arguments name; never returns, never shows a traceback for a user's mistake."""
    _open_standard_fds()
    if sys.stdout is not None:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # arguments need not be UTF-8
    try:
        status = dispatch(sys.argv[1:])
    except PyboxError as error:
        status = _failed(error)
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:  # the reader of our output has gone: nothing to tell it any more
        status = 141
    except OSError as error:
        # what the host refused outside of any step: no room for the state directory, a store that belongs to another
        place = f"{error.filename}: " if error.filename else ""
        refused = PyboxError(f"{place}{error.strerror}", "`pybox why E-HOST` looks for the cause")
        refused.code = "E-HOST"
        status = _failed(refused)
    try:
        if sys.stdout is not None:  # Python's way to say that fd 1 was closed when it started
            sys.stdout.flush()
    except (OSError, ValueError):
        status = status or 141
    # not sys.exit: the interpreter would take its modules apart one by one, for milliseconds
    os._exit(status)


def _open_standard_fds() -> None:
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", os.O_RDWR)  # takes the lowest free number: this one


def _failed(error: PyboxError) -> int:
    from pybox.cli.why import complain_in_json, wants_json  # only who fails pays for it

    return complain_in_json(error) if wants_json(sys.argv[1:]) else complain(error)


def complain(error: PyboxError) -> int:
    """Show a failure, once; returns its exit status."""
    from pybox.codes import tells_more

    text = f"pybox: error: {error.message}{f' [{error.code}]' if tells_more(error.code) else ''}\n"
    if error.hint:
        text += f"pybox: hint: {error.hint}\n"
    os.write(2, text.encode("utf-8", "backslashreplace"))
    return error.exit_code


def dispatch(words: list[str]) -> int:
    """Find the command and run it; returns its exit status."""
    if words[:1] == ["run"]:  # what most starts of pybox are for, in most of them for the same again
        from pybox.cli.foreground import run_again

        status = run_again(dirs.current(), words[1:])
        if status is not None:
            return status
        bundle.more()
    from pybox.cli.commands import COMMANDS

    if not words or words[0] in ("help", "-h", "--help"):
        from pybox.cli.help import overview

        if not words[1:]:
            print(overview())
            return 0
        if words[1] in ("--man", "--markdown"):
            from pybox.cli.reference import markdown, page

            print(markdown() if words[1] == "--markdown" else page(*words[2:3]), end="")
            return 0
        words = [words[1], "--help"]  # `help run` is `run --help`, and says so of a name that is none
    if words[0] in ("-v", "--version"):
        return version(dirs.current(), [])
    for command in COMMANDS:
        if command.name == words[0]:
            if _wants_help(command, words[1:]):
                from pybox.cli.help import command_help

                print(command_help(command))
                return 0
            return _call(command, words[1:])
    from difflib import get_close_matches

    near = get_close_matches(words[0], [command.name for command in COMMANDS], 1, 0.5)
    error = PyboxError(f"no such command: {words[0]}", f"did you mean `pybox {near[0]}`?" if near else "`pybox help` lists them")
    error.code = "E-USAGE"
    raise error


def _wants_help(command: Command, words: list[str]) -> bool:
    from pybox.cli.commands import own_words

    mine = own_words([command.name, *words])[1:]  # none for run, where -h is the host name
    return "--help" in mine or mine[:1] == ["-h"] or words[len(mine) :][:1] == ["--help"]


def _call(command: Command, words: list[str]) -> int:
    module = f"pybox.cli.{command.module}"
    __import__(module)
    function = getattr(sys.modules[module], command.function)
    status: int = function(dirs.current(), words)
    return status


def version(where: dirs.Dirs, words: list[str]) -> int:
    """Print the version."""
    from pybox.version import VERSION

    print(f"pybox version {VERSION}")
    return 0
