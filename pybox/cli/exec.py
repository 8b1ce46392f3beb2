"""`pybox exec`: one more command in a container that runs."""

from __future__ import annotations

import posix as os

from pybox import entering, listing, live, native, text
from pybox.cli.forwarding import Forwarder
from pybox.cli.options import Option, Parsed, parse
from pybox.dirs import Dirs
from pybox.entering import Visit
from pybox.errors import SpecError, StateError
from pybox.result import verdict
from pybox.runtime import Runtime
from pybox.steps.base import Desk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.native import Child
    from pybox.ready import Ready

EXEC = (
    Option(("-i", "--interactive"), "", "pass stdin on"),
    Option(("-t", "--tty"), "", "give it a terminal"),
    Option(("-d", "--detach"), "", "leave it running in the background"),
    Option(("-e", "--env"), "", "set a variable", "NAME[=VALUE]", True),
    Option(("--env-file",), "", "read variables from a file", "FILE", True),
    Option(("-w", "--workdir"), "", "the working directory", "DIR"),
    Option(("-u", "--user"), "", "run as this user of the container", "NAME|UID[:GROUP|GID]"),
    Option(("--privileged",), "", "with all capabilities, and without the system call filter"),
    Option(("--detach-keys",), "", "keys to leave a terminal by (ctrl-p,ctrl-q)", "KEYS"),
)


def visit_of(parsed: Parsed) -> Visit:
    """Return what the words ask for. Raises SpecError."""
    if len(parsed.rest) < 2:
        raise SpecError("exec", " ".join(parsed.rest), "needs a container and a command", "pybox exec web sh")
    env: dict[str, str] = {}
    for path in parsed.all("env-file"):
        env.update(text.read_env_file(path))
    env.update(pair for word in parsed.all("env") if (pair := text.parse_env(word)))
    return Visit(
        args=tuple(parsed.rest[1:]),
        user=parsed.one("user") or "",
        workdir=parsed.one("workdir") or "",
        env=tuple(env.items()),
        tty=parsed.has("tty") and not parsed.has("detach"),
        privileged=parsed.has("privileged"),
        detach=parsed.has("detach"),
    )


def enter(where: Dirs, wanted: str) -> tuple[listing.Entry, int]:
    """Return a container that can be entered and a pidfd of its process 1. Raises StateError."""
    entry = listing.find(where, wanted)
    if entry.status == "paused":
        raise StateError(f"container {entry.identity} is paused", "`pybox unpause` lets it go on")
    return entry, live.pidfd(entry)


def exec_(where: Dirs, words: list[str]) -> int:
    """Run a command in a container; returns its exit status."""
    parsed = parse(EXEC, words)
    visit = visit_of(parsed)
    stdin = parsed.has("interactive") and not visit.detach
    if visit.tty and stdin and not os.isatty(0):
        raise SpecError("tty", "", "stdin is not a terminal", "leave -t out to pass a pipe or file through")
    keys = parsed.one("detach-keys")
    entry, process = enter(where, parsed.rest[0])
    assert entry.pid is not None
    try:
        runtime = Runtime(where)
        ready = entering.prepare(runtime, entry, entry.pid, visit)
        runtime.make_once(ready)
        desk = Desk(entry.identity, runtime.reuse)
        try:
            if visit.tty:
                return _on_terminal(runtime, ready, desk, process, stdin, keys)
            return _on_our_streams(runtime, ready, desk, process, stdin, visit.detach)
        finally:
            desk.close()
    finally:
        os.close(process)


def _on_our_streams(runtime: Runtime, ready: Ready, desk: Desk, process: int, stdin: bool, detach: bool) -> int:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    desk.fds["null"] = null  # closed with the desk
    forwarder = None if detach else Forwarder()
    streams = {"stdin": 0 if stdin else null, "stdout": null if detach else 1, "stderr": null if detach else 2}
    child, leash = runtime.clone(ready, desk, {"process": process, **streams})
    try:
        if forwarder is None:
            return 0
        forwarder.started(child, desk.identity)
        forwarder.await_end(child.pidfd)
        return _status(child)
    finally:
        if forwarder is not None:
            forwarder.stop()
        _let_go(child, leash)


def _on_terminal(runtime: Runtime, ready: Ready, desk: Desk, process: int, stdin: bool, keys: str | None) -> int:
    from socket import recv_fds, socket

    from pybox.console import parse_keys
    from pybox.joining import Wish, relay, window

    wish = Wish(stdin=stdin, tty=True, keys=parse_keys(keys))
    ours, theirs = native.leash()
    desk.fds["terminal-socket"] = theirs
    with socket(fileno=ours) as connection:
        connection.send(window())
        child, leash = runtime.clone(ready, desk, {"process": process})
        master = -1
        try:
            (master,) = recv_fds(connection, 1, 1)[1]
            parting = relay(master, child.pidfd, wish)
            if parting.detached:  # without us nobody holds the terminal: the command hears a hang-up
                return 128 + parting.by if parting.by else 0
            return _status(child)
        finally:
            if master >= 0:
                os.close(master)
            _let_go(child, leash)


def _status(child: Child) -> int:
    return verdict(native.wait(child.pid).status, False, 0)[1]


def _let_go(child: Child, leash: int) -> None:
    os.close(child.pidfd)
    if leash >= 0:
        os.close(leash)
