"""`pybox start`, `stop`, `kill`, `restart`, `wait`, `attach`, `rename`, `rm`, `prune`: the life of a container that is kept."""

from __future__ import annotations

import os
from time import monotonic

from pybox import burial, joining, kept, lifecycle, listing, monitor, native
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

START = (
    Option(("-a", "--attach"), "", "attach to its output"),
    Option(("-i", "--interactive"), "", "pass stdin on, too"),
    Option(("--detach-keys",), "", "keys to leave it by (ctrl-p,ctrl-q)", "KEYS"),
)
STOP = (Option(("-t", "--time", "--timeout"), "", "seconds until it is killed (10)", "SECONDS"),)
RESTART = STOP
KILL = (Option(("-s", "--signal"), "", "the signal to send (KILL)", "SIGNAL"),)
RM = (
    Option(("-f", "--force"), "", "kill it first, if it runs"),
    Option(("-v", "--volumes"), "", "its volumes without a name, too"),
)
ATTACH = (
    Option(("--no-stdin",), "", "don't pass stdin on"),
    Option(("--sig-proxy",), "", "false: keep signals to oneself", "BOOL"),
    Option(("--detach-keys",), "", "keys to leave it by (ctrl-p,ctrl-q)", "KEYS"),
)
WAIT = (Option(("--condition",), "", "stopped (the default) or healthy", "CONDITION"),)
BOOT = (Option(("--stop",), "", "end them instead, as when the machine goes down: the next boot starts them again"),)
PRUNE = (Option(("-f", "--force"), "", "accepted: nothing is asked"),)


def named(words: list[str], what: str) -> list[str]:
    """Return the containers' names on a command line. Raises SpecError when there are none."""
    if not words:
        raise SpecError(what, "", "no container given", "`pybox ps -a` lists them")
    return words


def for_each(
    where: Dirs, words: list[str], act: Callable[[Entry], str | None], first: Callable[[Entry], object] = lambda entry: None
) -> int:
    """Do something to each named container and print what it returns; as docker, go on with the others when one can't be.

    ``first`` is done to all of them before.
    """
    status = 0
    found: list[tuple[str, Entry]] = []
    for word in words:
        try:
            entry = listing.find(where, word)
            first(entry)
            found.append((word, entry))
        except PyboxError as error:
            status = complain(error)
    for word, entry in found:
        try:
            said = act(entry)
            print(word if said is None else said, flush=True)
        except PyboxError as error:
            status = complain(error)
        except OSError as error:
            status = complain(PyboxError(f"{word}: {error.strerror}: {error.filename or ''}"))
    return status


def start(where: Dirs, words: list[str]) -> int:
    """Start containers that have been created or have ended."""
    parsed = parse_anywhere(START, words)
    words = named(parsed.rest, "start")
    if not (parsed.has("attach") or parsed.has("interactive")):
        return for_each(where, words, lambda entry: _start(where, entry))
    if len(words) > 1:
        raise SpecError("start", " ".join(words), "attaches to one container at a time")
    entry = listing.find(where, words[0])
    what = listing.config(where, entry)
    wish = Wish(parsed.has("interactive"), what.spec.tty, parse_keys(parsed.one("detach-keys")))
    if entry.alive:
        return _attach(where, entry, wish)
    theirs, ours = native.leash()
    if what.spec.tty:
        joining.announce_size(ours)
    try:
        process = lifecycle.start(where, entry.identity, theirs)
    finally:
        os.close(theirs)
    from socket import socket

    with socket(fileno=ours) as connection:
        if not process:  # another command was quicker
            return _attach(where, listing.find(where, entry.identity), wish)
        parting = joining.attach(connection, wish)
    if not parting.detached:
        os.waitpid(process, 0)
    return exit_status(where, entry.identity, parting)


def _start(where: Dirs, entry: Entry) -> None:
    listing.config(where, entry)
    if entry.status == "paused":
        raise StateError(f"container {entry.identity} is paused", "`pybox unpause` lets it go on")
    lifecycle.start(where, entry.identity)


def stop(where: Dirs, words: list[str]) -> int:
    """End containers: ask, wait, kill. All are asked before the first is waited for."""
    parsed = parse_anywhere(STOP, words)
    deadline = monotonic() + _grace(parsed)

    def ask(entry: Entry) -> None:
        if entry.alive:
            lifecycle.ask_to_end(where, entry)

    return for_each(where, named(parsed.rest, "stop"), lambda entry: lifecycle.await_end(where, entry, deadline), ask)


def _grace(parsed: Parsed) -> float:
    text = parsed.one("timeout")
    return lifecycle.GRACE if text is None else 0.0 if text == "0" else parse_seconds("time", text) or 0.0


def kill(where: Dirs, words: list[str]) -> int:
    """Send a signal to containers; KILL if none is named."""
    parsed = parse_anywhere(KILL, words)
    number = parse_signal(parsed.one("signal") or "KILL")

    def act(entry: Entry) -> None:
        lifecycle.kill(where, entry, number)

    return for_each(where, named(parsed.rest, "kill"), act)


def restart(where: Dirs, words: list[str]) -> int:
    """Stop containers and start them again."""
    parsed = parse_anywhere(STOP, words)
    grace = _grace(parsed)

    def act(entry: Entry) -> None:
        listing.config(where, entry)
        lifecycle.stop(where, entry, grace)
        lifecycle.start(where, entry.identity)

    return for_each(where, named(parsed.rest, "restart"), act)


def wait(where: Dirs, words: list[str]) -> int:
    """Wait until containers have ended, and print the exit status of each; or until they are healthy."""
    parsed = parse_anywhere(WAIT, words)
    words = named(parsed.rest, "wait")
    if (parsed.one("condition") or "stopped") not in ("stopped", "exited"):
        from pybox.cli.check import wait_healthy

        return for_each(where, words, wait_healthy(where, parsed.one("condition")))
    return for_each(where, words, lambda entry: str(lifecycle.wait(where, entry)))


def attach(where: Dirs, words: list[str]) -> int:
    """Join a running container's streams; returns its exit status, or 0 when left by the detach keys."""
    parsed = parse_anywhere(ATTACH, words)
    if len(parsed.rest) != 1:
        raise SpecError("attach", " ".join(parsed.rest), "needs one container", "`pybox ps` lists them")
    entry = listing.find(where, parsed.rest[0])
    if not entry.alive:
        raise StateError(f"container {entry.identity} is not running", f"it is {entry.status}; `pybox start -a` starts it")
    what = kept.load(where, entry.identity)
    wish = Wish(
        stdin=not parsed.has("no-stdin") and what is not None and what.stdin,
        tty=what is not None and what.spec.tty,
        keys=parse_keys(parsed.one("detach-keys")),
        proxy=parsed.one("sig-proxy") != "false",
        redraw=True,
    )
    return _attach(where, entry, wish)


def _attach(where: Dirs, entry: Entry, wish: Wish) -> int:
    if entry.status == "paused":
        raise StateError(f"container {entry.identity} is paused", "`pybox unpause` lets it go on")
    if entry.status == "restarting":
        raise StateError(f"container {entry.identity} is restarting", "wait until it runs")
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
    parsed = parse_anywhere(RM, words)

    def kill_first(entry: Entry) -> None:
        if parsed.has("force") and entry.alive:
            lifecycle.ask_to_end(where, entry, 9)

    def act(entry: Entry) -> None:
        lifecycle.remove(where, entry, parsed.has("force"), volumes=parsed.has("volumes"))

    return for_each(where, named(parsed.rest, "rm"), act, kill_first)


def prune(where: Dirs, words: list[str]) -> int:
    """Forget all containers that have ended."""
    if parse_anywhere(PRUNE, words).rest:
        raise SpecError("prune", " ".join(words), "takes no arguments")
    ended = [entry.identity for entry in listing.entries(where) if not entry.alive and entry.status != "dead"]

    def act(entry: Entry) -> str:
        lifecycle.remove(where, entry)
        return entry.identity

    return for_each(where, ended, act)


def boot(where: Dirs, words: list[str]) -> int:
    """Start the containers that are to run whenever the machine does; or end them, until the next boot."""
    parsed = parse_anywhere(BOOT, words)
    if parsed.rest:
        raise SpecError("boot", " ".join(parsed.rest), "takes no arguments")
    from pybox import boot as machine  # here: the end of every container comes through this module (finish)

    burial.mend(where)
    status = 0
    for entry, error in machine.leave(where) if parsed.has("stop") else machine.arrive(where):
        if error is None:
            print(entry.name or entry.identity)
        else:
            status = complain(error)
    return status


def finish(where: Dirs, words: list[str]) -> int:
    """Record the end of a container, or start one again: what pybox-monitor becomes. Not for people."""
    identity, lock, *rest = words
    if rest:
        monitor.finish(where, identity, int(lock), rest[0], monitor.Fate(*map(int, rest[1:])))
    else:
        monitor.resume(where, identity, int(lock))
    return 0
