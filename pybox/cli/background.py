"""`pybox run -d`, `run -it`, `create`: from the words of the command line to a kept container that pybox-monitor looks after."""

from __future__ import annotations

import os

from pybox import kept, lifecycle, listing, native, state, text
from pybox.cli.foreground import sweep
from pybox.cli.options import RUN, Parsed, parse
from pybox.cli.run import options_of, removes, spec_of, warn, with_image
from pybox.console import parse_keys
from pybox.dirs import Dirs
from pybox.errors import PyboxError, SpecError
from pybox.joining import Parting, Wish, announce_size, attach
from pybox.kept import Health, Kept
from pybox.result import verdict
from pybox.runtime import Runtime
from pybox.units import parse_bytes, parse_int, parse_seconds


def kept_of(parsed: Parsed) -> Kept:
    """Return what the words ask for. Raises SpecError."""
    options = options_of(parsed)
    if parsed.has("rm") and (parsed.one("restart") or "no") != "no":
        raise SpecError(
            "restart", parsed.one("restart"), "can't be together with --rm", "what is forgotten can't be started again"
        )
    size, files = _log_options(parsed)
    return Kept(
        identity=state.new_id(),
        spec=spec_of(parsed),
        name=options.name,
        remove=removes(parsed),
        restart=parse_policy(parsed.one("restart") or "no"),
        stdin=parsed.has("interactive"),
        timeout=options.timeout,
        log_size=size,
        log_files=files,
        health=_health(parsed),
        labels=tuple(text.parse_label(label) for label in parsed.all("label")),
    )


def parse_policy(policy: str) -> str:
    """Return a restart policy. Raises SpecError."""
    name, colon, most = policy.partition(":")
    if name not in ("no", "on-failure", "always", "unless-stopped") or (colon and name != "on-failure"):
        raise SpecError("restart", policy, "must be no, on-failure[:N], always or unless-stopped")
    if colon:
        parse_int("restart", most, 1, 1_000_000)
    return policy


def _log_options(parsed: Parsed) -> tuple[int, int]:
    size, files = 10 << 20, 3
    for option in parsed.all("log-opt"):
        name, _, value = option.partition("=")
        if name == "max-size":
            size = 0 if value == "-1" else parse_bytes("log-opt max-size", value) or 0
        elif name == "max-file":
            files = parse_int("log-opt max-file", value, 1, 99) or 1
        else:
            raise SpecError("log-opt", option, "not known", "max-size=10M or max-file=3")
    return size, files


def _health(parsed: Parsed) -> Health | None:
    """Return what is to be checked; None leaves that to the image, an empty command means nothing."""
    command = parsed.one("health-cmd")
    others = ("interval", "timeout", "retries", "start-period")
    if parsed.has("no-healthcheck"):
        if command:
            raise SpecError("no-healthcheck", "", "can't be together with --health-cmd")
        return Health(())
    if command == "none":  # as docker
        return Health(())
    if not command:
        for other in others:
            if parsed.one(f"health-{other}"):
                raise SpecError(f"health-{other}", "", "needs --health-cmd")
        return None
    interval, timeout, start = (
        parse_seconds(f"health-{name}", parsed.one(f"health-{name}")) for name in ("interval", "timeout", "start-period")
    )
    retries = parse_int("health-retries", parsed.one("health-retries"), 1, 1000)
    return Health(("/bin/sh", "-c", command), interval or 30.0, timeout or 30.0, retries or 3, start or 0.0)


def run(where: Dirs, parsed: Parsed) -> int:
    """Run a container under a monitor: in the background with -d, else attached; returns the exit status for the shell."""
    what = kept_of(parsed)
    warn(what.spec)
    background = parsed.has("detach")
    wish = Wish(
        stdin=not background and (parsed.has("interactive") or not what.spec.tty),
        tty=what.spec.tty,
        keys=parse_keys(parsed.one("detach-keys")),
    )
    if not background:
        what = what.replace(stdin=wish.stdin)
        if wish.tty and wish.stdin and not os.isatty(0):
            raise SpecError("tty", "", "stdin is not a terminal", "leave -t out to pass a pipe or file through, or -i")
    if parsed.one("status-file"):
        raise SpecError(
            "status-file", "", "can't be together with -d or -t", "`pybox wait` and `pybox inspect` tell how it ended"
        )
    card = _open_card(parsed.one("cidfile"))
    runtime = Runtime(where)
    sweep(runtime)
    try:
        what = with_image(where, parsed, lambda: lifecycle.create(runtime, what))
        try:
            return _start(where, what, wish, background, card)
        except PyboxError:
            entry = listing.load(where, what.identity, what.name)
            if entry is not None:
                lifecycle.remove(where, entry, volumes=True)
            raise
    except BaseException:
        if card >= 0:
            os.unlink(str(parsed.one("cidfile")))
        raise


def _open_card(path: str | None) -> int:
    try:
        return -1 if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise SpecError("cidfile", path, str(error.strerror)) from None


def _start(where: Dirs, what: Kept, wish: Wish, background: bool, card: int) -> int:
    from socket import socket

    theirs, ours = (-1, -1) if background else native.leash()
    if wish.tty and not background:
        announce_size(ours)
    try:
        monitor = lifecycle.start(where, what.identity, theirs, owned=not background)
    finally:
        if theirs >= 0:
            os.close(theirs)
    if card >= 0:
        os.write(card, what.identity.encode())
        os.close(card)
    if background:
        print(what.identity)
        return 0
    with socket(fileno=ours) as connection:
        parting = attach(connection, wish)
    if not parting.detached:
        os.waitpid(monitor, 0)  # until the end is recorded, or forgotten with --rm
    return exit_status(where, what.identity, parting)


def exit_status(where: Dirs, identity: str, parting: Parting) -> int:
    """Return what a shell is to be told: the command's exit status; 0 when we have left it. Says what the status alone does not."""
    if parting.detached:
        return 128 + parting.by if parting.by else 0
    result = kept.result(where, identity) or {}
    if result.get("reason") in ("oom", "timeout"):
        os.write(2, f"pybox: {'out of memory' if result['reason'] == 'oom' else 'time-out'}: container killed\n".encode())
    code = result.get("exit_code")
    if isinstance(code, int):
        return code
    return 137 if parting.status is None else verdict(parting.status, False, 0)[1]


def create(where: Dirs, words: list[str]) -> int:
    """Create a container without starting it, and print its id."""
    parsed = parse(RUN, words)
    what = kept_of(parsed)
    card = _open_card(parsed.one("cidfile"))
    try:
        runtime = Runtime(where)
        sweep(runtime)
        with_image(where, parsed, lambda: lifecycle.create(runtime, what))
    except BaseException:
        if card >= 0:
            os.unlink(str(parsed.one("cidfile")))
        raise
    if card >= 0:
        os.write(card, what.identity.encode())
        os.close(card)
    print(what.identity)
    return 0
