"""`pybox exec`: one more command in a container that runs."""

from __future__ import annotations

import os

from pybox import entering, listing, live, native, text
from pybox.cli.options import Option, parse
from pybox.cli.run import Forwarder
from pybox.dirs import Dirs
from pybox.entering import Visit
from pybox.errors import SpecError, StateError
from pybox.result import verdict
from pybox.runtime import Runtime
from pybox.steps.base import Desk

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


def exec_(where: Dirs, words: list[str]) -> int:
    """Run a command in a container; returns its exit status."""
    parsed = parse(EXEC, words)
    if len(parsed.rest) < 2:
        raise SpecError("exec", " ".join(parsed.rest), "needs a container and a command", "pybox exec web sh")
    env: dict[str, str] = {}
    for path in parsed.all("env-file"):
        env.update(text.read_env_file(path))
    env.update(pair for pair in map(text.parse_env, parsed.all("env")) if pair)
    visit = Visit(
        args=tuple(parsed.rest[1:]),
        user=parsed.one("user") or "",
        workdir=parsed.one("workdir") or "",
        env=tuple(env.items()),
        tty=parsed.has("tty") and not parsed.has("detach"),
        privileged=parsed.has("privileged"),
        detach=parsed.has("detach"),
    )
    stdin = parsed.has("interactive") and not visit.detach
    if visit.tty and stdin and not os.isatty(0):
        raise SpecError("tty", "", "stdin is not a terminal", "leave -t out to pass a pipe or file through")
    keys = parsed.one("detach-keys")
    entry = listing.find(where, parsed.rest[0])
    if entry.status == "paused":
        raise StateError(f"container {entry.identity} is paused", "`pybox unpause` lets it go on")
    runtime = Runtime(where)
    process = live.pidfd(entry)
    assert entry.pid is not None
    try:
        return _run(runtime, entry, entry.pid, process, visit, stdin, keys)
    finally:
        os.close(process)


def _run(runtime: Runtime, entry: listing.Entry, pid: int, process: int, visit: Visit, stdin: bool, keys: str | None) -> int:
    ready = entering.prepare(runtime, entry, pid, visit)
    runtime.make_once(ready.given)
    desk = Desk(entry.identity, runtime.reuse)
    master = -1
    fds = {"process": process}
    ours = []
    if visit.tty:
        master, other = entering.terminal(pid, _owner(runtime, ready.given.account.uid))
        ours += [master, other]
        fds["terminal"] = other
    else:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        ours.append(null)
        fds.update(stdin=0 if stdin else null, stdout=null if visit.detach else 1, stderr=null if visit.detach else 2)
    try:
        forwarder = Forwarder() if not (visit.tty or visit.detach) else None
        child, _ = runtime.clone(ready, desk, fds)
        if visit.tty:
            os.close(ours.pop())
        try:
            if visit.detach:
                return 0
            if forwarder is not None:
                forwarder.started(child, entry.identity)
            elif _relay(child.pidfd, master, stdin, keys):
                return 0
            usage = native.wait(child.pid)
            return verdict(usage.status, False, 0)[1]
        finally:
            if forwarder is not None:
                forwarder.stop()
            os.close(child.pidfd)
    finally:
        desk.close()
        for fd in ours:
            os.close(fd)


def _owner(runtime: Runtime, uid: int) -> int:
    """Return the id that a user of the container has on the host, where the terminal is to be theirs."""
    return uid if runtime.facts.root else -1


def _relay(pidfd: int, master: int, stdin: bool, keys: str | None) -> bool:
    """Join the terminals until the command has ended; True when the person has left: then the command hears a hang-up."""
    from pybox.console import DETACH_KEYS, Wish, parse_keys, relay

    wish = Wish(stdin=stdin, tty=True, keys=parse_keys(DETACH_KEYS if keys is None else keys))
    return relay(master, pidfd, wish)
