"""`pybox ps`, `inspect`, `gc`: what is there, and what a killed pybox has left."""

from __future__ import annotations

import os
import sys
import time

from pybox import burial, inspection, listing, views
from pybox.cli.options import Option, parse_anywhere
from pybox.cli.table import table, visible
from pybox.dirs import Dirs
from pybox.errors import SpecError
from pybox.image import changes
from pybox.network import pool
from pybox.times import lasting
from pybox.units import parse_int
from pybox.views import View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

PS = (
    Option(("-a", "--all"), "", "also those that have ended"),
    Option(("-q", "--quiet"), "", "only ids"),
    Option(
        ("-f", "--filter"), "", f"only some: {', '.join(views.FILTERS)}; e.g. status=exited, label=team=red", "KEY=VALUE", True
    ),
    Option(("-n", "--last"), "", "the newest so many, whatever they do", "NUMBER"),
    Option(("-l", "--latest"), "", "the newest one"),
    Option(("-s", "--size"), "", "what the writable layers take on the disk"),
    Option(("--no-trunc",), "", "nothing is cut short"),
    Option(("--format",), "", "json or table", "FORMAT"),
)
INSPECT = (Option(("-f", "--format"), "", "one value, by its path in the JSON: state.pid", "PATH"),)
_WIDTH = 20  # of a command, quotes not counted


def ps(where: Dirs, words: list[str]) -> int:
    """List containers, the newest first."""
    parsed = parse_anywhere(PS, words)
    form = parsed.one("format") or "table"
    if form not in ("json", "table") or parsed.rest:
        raise SpecError("ps", " ".join(words), "must be [-a] [-q] [-f KEY=VALUE]... [-n NUMBER] [--format json|table]")
    wanted = views.filters(parsed.all("filter"))
    last = 1 if parsed.has("latest") else parse_int("last", parsed.one("last"), -1, 1 << 31)
    everything = parsed.has("all") or (last or -1) > 0 or any(each.key in ("status", "exited") for each in wanted)
    found = [views.view(where, entry) for entry in reversed(listing.entries(where)) if everything or entry.alive]
    if wanted:
        found = [one for one in found if views.matches(where, one, wanted)]
    if last is not None and last >= 0:
        found = found[: last or None]
    if parsed.has("quiet"):
        print("\n".join(one.entry.identity for one in found), end="\n" if found else "")
    elif form == "json":
        import json

        now = time.time()
        ports = pool.shown_ports(where.state)
        rows = [{**one.to_json(), "text": one.status(now), "ports": list(ports.get(one.entry.identity, []))} for one in found]
        if parsed.has("size"):
            for row, one in zip(rows, found, strict=True):
                row["size"] = views.disk_use(where, one.entry)
        print(json.dumps(rows, indent=2))
    else:
        _table(where, found, parsed.has("size"), parsed.has("no-trunc"))
    return 0


def _table(where: Dirs, found: list[View], sizes: bool, whole: bool) -> None:
    now = time.time()
    ports = pool.shown_ports(where.state)
    head = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", *(["PORTS"] if ports else []), "NAMES"]
    rows = [[*head, *(["SIZE"] if sizes else [])]]
    for one in found:
        entry, created = one.entry, one.time("created")
        row = [entry.identity, str(entry.journal.get("image", "")), _command(entry.journal.get("args"), whole)]
        row += [
            "-" if created is None else f"{lasting(now - created)} ago",
            one.status(now),
            *([", ".join(ports.get(entry.identity, []))] if ports else []),
            entry.name,
        ]
        if sizes:
            from pybox.cli.images import size  # with argparse, which is half of what `ps` costs without it

            row.append(size(views.disk_use(where, entry)))
        rows.append(row)
    print(table([[visible(cell) for cell in row] for row in rows]))


def _command(args: Json, whole: bool) -> str:
    line = visible(" ".join(str(arg) for arg in args) if isinstance(args, (list, tuple)) else "")
    return f'"{line if whole or len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"}"'


def inspect(where: Dirs, words: list[str]) -> int:
    """Show all that is known of containers as a JSON array, or one value of each."""
    parsed = parse_anywhere(INSPECT, words)
    if not parsed.rest:
        raise SpecError("inspect", "", "no container given", "`pybox ps -a` lists them")
    import json

    shown = [inspection.describe(where, views.find(where, word)) for word in parsed.rest]
    path = parsed.one("format")
    if path is None or path == "json":
        print(json.dumps(shown, indent=2))
        return 0
    for value in [inspection.pick(one, path) for one in shown]:
        print(visible(value) if isinstance(value, str) else json.dumps(value))
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
