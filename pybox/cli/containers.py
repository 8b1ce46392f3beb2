"""`pybox ps`, `inspect`, `gc`: what is there, and what a killed pybox has left."""

from __future__ import annotations

import json
import os
import sys
import time

from pybox import burial, listing
from pybox.cli.options import Option, parse
from pybox.dirs import Dirs
from pybox.errors import SpecError
from pybox.image import changes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

_PS = (
    Option(("-a", "--all"), "", "also those that have ended"),
    Option(("-q", "--quiet"), "", "only ids"),
    Option(("--format",), "", "json or table", "FORMAT"),
)


def _view(entry: listing.Entry) -> dict[str, Json]:
    result = entry.result or {}
    return {
        "id": entry.identity,
        "name": entry.name,
        "image": entry.journal.get("image", ""),
        "args": entry.journal.get("args", []),
        "created": entry.journal.get("created"),
        "status": entry.status,
        "alive": entry.alive,
        "pid": entry.pid,
        "reason": result.get("reason"),
        "exit_code": result.get("exit_code"),
    }


def ps(where: Dirs, words: list[str]) -> int:
    """List containers."""
    parsed = parse(_PS, words)
    form = parsed.one("format") or "table"
    if form not in ("json", "table") or parsed.rest:
        raise SpecError("ps", " ".join(words), "must be [-a] [-q] [--format json|table]")
    found = [_view(entry) for entry in listing.entries(where)]
    if not parsed.has("all"):
        found = [view for view in found if view["alive"]]
    if parsed.has("quiet"):
        print("\n".join(str(view["id"]) for view in found), end="\n" if found else "")
    elif form == "json":
        print(json.dumps(found, indent=2))
    else:
        print(f"{'CONTAINER ID':<14}{'IMAGE':<20}{'COMMAND':<28}{'CREATED':<16}{'STATUS':<22}NAMES")
        for view in found:
            args = view["args"] if isinstance(view["args"], list) else []
            line = " ".join(str(arg) for arg in args)
            command = json.dumps(line if len(line) < 24 else line[:20] + "...")
            print(
                f"{view['id']:<14}{view['image']!s:<20}{command:<28}{_ago(view['created']):<16}{_status(view):<22}{view['name']}"
            )
    return 0


def _ago(created: Json) -> str:
    if not isinstance(created, (int, float)):
        return "-"
    seconds = max(0, int(time.time() - created))
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{seconds // size} {unit}{'s' * (seconds // size != 1)} ago"
    return f"{seconds} second{'s' * (seconds != 1)} ago"


def _status(view: dict[str, Json]) -> str:
    if view["status"] == "exited":
        return f"Exited ({view['exit_code']})" + (f" {view['reason']}" if view["reason"] not in ("exit", None) else "")
    known = {"running": "Up", "paused": "Paused", "restarting": "Restarting", "created": "Created"}
    return known.get(str(view["status"]), "Dead (pybox killed)")


def inspect(where: Dirs, words: list[str]) -> int:
    """Show the record of containers as a JSON array."""
    if not words:
        raise SpecError("inspect", "", "no container given", "`pybox ps -a` lists them")
    shown = []
    for word in words:
        entry = listing.find(where, word)
        shown.append({**_view(entry), "journal": entry.journal, "result": entry.result})
    print(json.dumps(shown, indent=2))
    return 0


def gc(where: Dirs, words: list[str]) -> int:
    """Clean up after pyboxes that were killed; says what was done."""
    if words:
        raise SpecError("gc", " ".join(words), "takes no arguments")
    done = burial.mend(where)
    if os.path.isdir(where.store):
        done += changes.sweep(where, listing.layers_in_use(where))
    print("\n".join(done) if done else "nothing to clean up", file=sys.stdout)
    return 0
