"""`pybox stats` and `pybox top`: what running containers use, and the processes in them."""

from __future__ import annotations

import json
import sys
import time

from pybox import listing
from pybox.cli.options import Option, parse_anywhere
from pybox.cli.table import FORMAT, form, percent, size, table, visible
from pybox.errors import SpecError
from pybox.kernel.processes import Process, processes
from pybox.kernel.usage import Account, Usage, account, between
from pybox.live import RUNNING, held, not_running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.dirs import Dirs
    from pybox.fastjson import Json

STATS = (Option(("--no-stream",), "", "once, not once a second"), FORMAT)
_INTERVAL = 1.0  # seconds between two tables
_FIRST = 0.5  # seconds between the two readings that the first table needs
_HEAD = (
    "CONTAINER ID",
    "NAME",
    "CPU",
    "THROTTLED",
    "MEMORY / LIMIT",
    "PEAK",
    "PIDS / LIMIT",
    "READ / WRITTEN",
    "WAITS CPU MEM IO",
)
_CLEAR = "\x1b[H\x1b[J"


def stats(where: Dirs, words: list[str]) -> int:
    """Show what containers use, again and again."""
    parsed = parse_anywhere(STATS, words)
    kind, wanted = form(parsed, "table", "json"), _wanted(where, parsed.rest)
    once = parsed.has("no-stream")
    try:
        before = _accounts(where, wanted)
        time.sleep(_FIRST)
        while True:
            after = _accounts(where, wanted)
            found = {
                identity: (name, between(before.get(identity, (name, now))[1], now)) for identity, (name, now) in after.items()
            }
            if not found and wanted is not None and not once:
                return 0  # all that were asked for have ended
            _show(found, kind, once)
            if once:
                return 0
            before = after
            time.sleep(_INTERVAL)
    except KeyboardInterrupt:
        return 0  # this is how it ends


def _wanted(where: Dirs, words: list[str]) -> frozenset[str] | None:
    """Return the ids asked for, None for all that run. Raises StateError for one that does not run."""
    found = [listing.find(where, word) for word in words]
    for entry in found:
        if entry.status not in RUNNING:
            raise not_running(entry)
    return frozenset(entry.identity for entry in found) if words else None


def _accounts(where: Dirs, wanted: frozenset[str] | None) -> dict[str, tuple[str, Account]]:
    """Return the readings of now by id, with the name."""
    return {
        entry.identity: (entry.name, account(entry.groups))
        for entry in listing.entries(where)
        if entry.status in RUNNING and (wanted is None or entry.identity in wanted)
    }


def _show(found: dict[str, tuple[str, Usage]], kind: str, once: bool) -> None:
    if kind == "json":
        views: list[dict[str, Json]] = [{"id": id, "name": name, **usage.to_json()} for id, (name, usage) in found.items()]
        print(json.dumps(views, indent=2 if once else None))
    else:
        text = table([_HEAD, *(_row(identity, name, usage) for identity, (name, usage) in found.items())])
        print(_CLEAR + text if sys.stdout.isatty() and not once else text)
    sys.stdout.flush()


def _row(identity: str, name: str, usage: Usage) -> tuple[str, ...]:
    now = usage.account
    waits = [percent(value) for value in (now.cpu_pressure, now.memory_pressure, now.io_pressure)]
    pids = "-" if now.pids is None else f"{now.pids} / {now.pids_limit or 'max'}"
    return (
        identity,
        name or "-",
        percent(usage.cpu_percent),
        percent(usage.throttled_percent),
        "-"
        if now.memory is None
        else f"{size(now.memory)} / {size(now.memory_limit) if now.memory_limit is not None else 'max'}",
        size(now.memory_peak),
        pids,
        "-" if now.read is None else f"{size(now.read)} / {size(now.written)}",
        " ".join(waits) if any(value != "-" for value in waits) else "-",
    )


# --- top ---------------------------------------------------------------------------------------------------------------------


def _time(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


COLUMNS: dict[str, tuple[str, Callable[[Process], str]]] = {
    "pid": ("PID", lambda process: str(process.pid)),
    "hpid": ("HOST PID", lambda process: str(process.host_pid)),
    "ppid": ("HOST PPID", lambda process: str(process.parent)),
    "user": ("USER", lambda process: "?" if process.user is None else str(process.user)),
    "huser": ("HOST USER", lambda process: str(process.host_user)),
    "state": ("S", lambda process: process.state),
    "threads": ("THREADS", lambda process: str(process.threads)),
    "time": ("TIME", lambda process: _time(process.seconds)),
    "rss": ("RSS", lambda process: size(process.rss)),
    "name": ("NAME", lambda process: visible(process.name)),
    "command": ("COMMAND", lambda process: visible(process.command)),
}
_DEFAULT = "pid,hpid,user,state,time,rss,command"
TOP = (Option(("-o", "--columns"), "", f"of {' '.join(COLUMNS)}", "COLUMNS"), FORMAT)


def top(where: Dirs, words: list[str]) -> int:
    """Show the processes of a container."""
    parsed = parse_anywhere(TOP, words)
    kind = form(parsed, "table", "json")
    columns = (parsed.one("columns") or _DEFAULT).split(",")
    for name in columns:
        if name not in COLUMNS:
            raise SpecError("columns", name, "no such column", f"some of {','.join(COLUMNS)}")
    if len(parsed.rest) != 1:
        raise SpecError("top", " ".join(parsed.rest), "must be CONTAINER [-o COLUMNS]", "`pybox ps` lists those that run")
    with held(where, parsed.rest[0]) as live:
        found = processes(live.pid, live.groups)
        if not live.still():
            found = ()
    if kind == "json":
        print(json.dumps([process.to_json() for process in found], indent=2))
    else:
        rows = [[COLUMNS[name][1](process) for name in columns] for process in found]
        print(table([[COLUMNS[name][0] for name in columns], *rows]))
    return 0
