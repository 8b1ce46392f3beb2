"""`pybox start`, `stop`, `kill`, `restart`, `wait`, `attach`, `rename`, `rm`, `prune`: the life of a container that is kept."""

from __future__ import annotations

import os

from pybox import joining, kept, lifecycle, listing, monitor, native, state
from pybox.cli.background import exit_status
from pybox.cli.main import complain
from pybox.cli.options import Option, Parsed, parse_anywhere
from pybox.console import parse_keys
from pybox.dirs import Dirs
from pybox.errors import PyboxError, SpecError, StateError
from pybox.joining import Wish
from pybox.listing import Entry
from pybox.spec import parse_signal
from pybox.units import parse_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_START = (
    Option(("-a", "--attach"), "", "attach to its output"),
    Option(("-i", "--interactive"), "", "pass stdin on, too"),
    Option(("--detach-keys",), "", "keys to leave it by (ctrl-p,ctrl-q)", "KEYS"),
)
_STOP = (Option(("-t", "--time", "--timeout"), "", "seconds until it is killed (10)", "SECONDS"),)
_KILL = (Option(("-s", "--signal"), "", "the signal to send (KILL)", "SIGNAL"),)
_RM = (Option(("-f", "--force"), "", "kill it first, if it runs"), Option(("-v", "--volumes"), "", "accepted; there are none"))
_ATTACH = (
    Option(("--no-stdin",), "", "don't pass stdin on"),
    Option(("--sig-proxy",), "", "false: keep signals to oneself", "BOOL"),
    Option(("--detach-keys",), "", "keys to leave it by (ctrl-p,ctrl-q)", "KEYS"),
)
_PRUNE = (Option(("-f", "--force"), "", "accepted: nothing is asked"),)


def named(where: Dirs, words: list[str], what: str) -> list[str]:
    """Return the containers' names on a command line. Raises SpecError when there are none."""
    if not words:
        raise SpecError(what, "", "no container given", "`pybox ps -a` lists them")
    return words


def for_each(where: Dirs, words: list[str], act: Callable[[Entry], str | None]) -> int:
    """Do something to each named container and print what it returns; as docker, go on with the others when one can't be."""
    status = 0
    for word in words:
        try:
            said = act(listing.find(where, word))
            print(word if said is None else said, flush=True)
        except PyboxError as error:
            status = complain(error)
    return status


def start(where: Dirs, words: list[str]) -> int:
    """Start containers that have been created or have ended."""
    parsed = parse_anywhere(_START, words)
    words = named(where, parsed.rest, "start")
    if not (parsed.has("attach") or parsed.has("interactive")):
        return for_each(where, words, lambda entry: _start(where, entry))
    if len(words) > 1:
        raise SpecError("start", " ".join(words), "attaches to one container at a time")
    entry = listing.find(where, words[0])
    what = listing.config(where, entry)
    theirs, ours = native.leash()
    if what.spec.tty:
        joining.announce_size(ours)
    with locked(where, entry):
        process = lifecycle.start(where, what, theirs)
    os.close(theirs)
    from socket import socket

    with socket(fileno=ours) as connection:
        wish = Wish(parsed.has("interactive"), what.spec.tty, parse_keys(parsed.one("detach-keys")))
        parting = joining.attach(connection, wish)
    if not parting.detached:
        os.waitpid(process, 0)
    return exit_status(where, entry.identity, parting)


class locked:
    """Hold the lock of a kept container while something is changed."""

    def __init__(self, where: Dirs, entry: Entry) -> None:
        listing.config(where, entry)
        self._fd = kept.lock(where, entry.identity)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _start(where: Dirs, entry: Entry) -> None:
    if entry.alive:
        return
    with locked(where, entry):
        lifecycle.start(where, listing.config(where, entry))


def stop(where: Dirs, words: list[str]) -> int:
    """End containers: ask, wait, kill."""
    parsed = parse_anywhere(_STOP, words)
    grace = _grace(parsed)

    def act(entry: Entry) -> None:
        lifecycle.stop(where, entry, grace)

    return for_each(where, named(where, parsed.rest, "stop"), act)


def _grace(parsed: Parsed) -> float:
    text = parsed.one("timeout")
    return lifecycle.GRACE if text is None else 0.0 if text == "0" else parse_seconds("time", text) or 0.0


def kill(where: Dirs, words: list[str]) -> int:
    """Send a signal to containers; KILL if none is named."""
    parsed = parse_anywhere(_KILL, words)
    number = parse_signal(parsed.one("signal") or "KILL")

    def act(entry: Entry) -> None:
        lifecycle.signal(entry, number)

    return for_each(where, named(where, parsed.rest, "kill"), act)


def restart(where: Dirs, words: list[str]) -> int:
    """Stop containers and start them again."""
    parsed = parse_anywhere(_STOP, words)
    grace = _grace(parsed)

    def act(entry: Entry) -> None:
        what = listing.config(where, entry)
        lifecycle.stop(where, entry, grace)
        with locked(where, entry):
            lifecycle.start(where, what)

    return for_each(where, named(where, parsed.rest, "restart"), act)


def wait(where: Dirs, words: list[str]) -> int:
    """Wait until containers have ended, and print the exit status of each."""

    def act(entry: Entry) -> str:
        listing.wait_for_owner(entry.path, None)
        after = listing.load(where, entry.identity, entry.name)
        code = (after.result or {}).get("exit_code") if after else None
        if code is None:
            raise StateError(f"container {entry.identity} is gone", "nobody recorded how it ended: it was removed (--rm)")
        return str(code)

    return for_each(where, named(where, words, "wait"), act)


def attach(where: Dirs, words: list[str]) -> int:
    """Join a running container's streams; returns its exit status, or 0 when left by the detach keys."""
    parsed = parse_anywhere(_ATTACH, words)
    if len(parsed.rest) != 1:
        raise SpecError("attach", " ".join(parsed.rest), "needs one container", "`pybox ps` lists them")
    entry = listing.find(where, parsed.rest[0])
    if not entry.alive:
        raise StateError(f"container {entry.identity} is not running", f"it is {entry.status}; `pybox start -a` starts it")
    if entry.status == "paused":
        raise StateError(f"container {entry.identity} is paused", "`pybox unpause` lets it go on")
    what = kept.load(where, entry.identity)
    wish = Wish(
        stdin=not parsed.has("no-stdin") and what is not None and what.stdin,
        tty=what is not None and what.spec.tty,
        keys=parse_keys(parsed.one("detach-keys")),
        proxy=parsed.one("sig-proxy") != "false",
        redraw=True,
    )
    with joining.connect(entry.path) as connection:
        parting = joining.attach(connection, wish)
    if not parting.detached:
        listing.wait_for_owner(entry.path, 10)
    return exit_status(where, entry.identity, parting)


def rename(where: Dirs, words: list[str]) -> int:
    """Give a container another name."""
    if len(words) != 2:
        raise SpecError("rename", " ".join(words), "must be CONTAINER NAME")
    lifecycle.rename(where, listing.find(where, words[0]), words[1])
    return 0


def rm(where: Dirs, words: list[str]) -> int:
    """Forget containers that have ended; with -f, kill those that run."""
    parsed = parse_anywhere(_RM, words)

    def act(entry: Entry) -> str:
        lifecycle.remove(where, entry, parsed.has("force"))
        return entry.identity

    return for_each(where, named(where, parsed.rest, "rm"), act)


def prune(where: Dirs, words: list[str]) -> int:
    """Forget all containers that have ended."""
    if parse_anywhere(_PRUNE, words).rest:
        raise SpecError("prune", " ".join(words), "takes no arguments")
    ended = [entry.identity for entry in listing.entries(where) if not entry.alive and entry.status != "dead"]

    def act(entry: Entry) -> str:
        lifecycle.remove(where, entry)
        return entry.identity

    return for_each(where, ended, act)


def boot(where: Dirs, words: list[str]) -> int:
    """Start the containers that are to run whenever the machine does."""
    if words:
        raise SpecError("boot", " ".join(words), "takes no arguments")
    state.sweep(where)
    status = 0
    for entry, error in lifecycle.boot(where):
        if error is None:
            print(entry.name or entry.identity)
        else:
            status = complain(error)
    return status


def finish(where: Dirs, words: list[str]) -> int:
    """Record the end of a container: what pybox-monitor becomes. Not for people."""
    identity, lock, enforced, *numbers = words
    monitor.finish(where, identity, int(lock), enforced, monitor.Fate(*map(int, numbers)))
    return 0
