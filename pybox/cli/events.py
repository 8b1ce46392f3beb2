"""`pybox events`: what happens to containers, one line for each thing, while it happens."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

from pybox import fastjson
from pybox.cli.options import Option, parse_anywhere
from pybox.cli.table import FORMAT, form, visible
from pybox.errors import SpecError
from pybox.units import parse_seconds
from pybox.watch import KINDS, Event, Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.dirs import Dirs

EVENTS = (
    Option(("--since",), "", "also what the records say of the time since then: 10m, 1700000000, 2026-01-31T12:00:00", "TIME"),
    Option(("--until",), "", "end then", "TIME"),
    Option(("--filter",), "", "container=ID|NAME or event=NAME; again for more", "KEY=VALUE", True),
    FORMAT,
)


def events(where: Dirs, words: list[str]) -> int:
    """Print what happens, until --until or Ctrl-C. Raises SpecError."""
    parsed = parse_anywhere(EVENTS, words)
    kind = form(parsed, "table", "json")
    if parsed.rest:
        raise SpecError("events", " ".join(parsed.rest), "takes options only", "--filter container=NAME")
    since, until = _moment("since", parsed.one("since")), _moment("until", parsed.one("until"))
    filters = _filters(parsed.all("filter"))
    try:
        with Watcher(where) as watcher:
            if since is not None:
                _print([event for event in watcher.past if since <= event.time <= (until or event.time)], kind, filters)
            while until is None or time.time() < until:
                _print(watcher.wait(None if until is None else max(0.0, until - time.time())), kind, filters)
    except KeyboardInterrupt:
        pass  # this is how it ends
    return 0


def _print(found: list[Event], kind: str, filters: dict[str, list[str]]) -> None:
    for event in found:
        if _wanted(event, filters):
            print(fastjson.dumps(event.to_json()) if kind == "json" else line(event))
    sys.stdout.flush()


def line(event: Event) -> str:
    """Return an event as docker words it."""
    pairs = [("image", event.image), ("name", event.name)]
    if event.kind == "die":
        pairs += [("exit_code", "-" if event.exit_code is None else str(event.exit_code)), ("reason", event.reason or "-")]
    stamp = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return visible(f"{stamp} container {event.kind} {event.identity} ({', '.join(f'{name}={value}' for name, value in pairs)})")


def _wanted(event: Event, filters: dict[str, list[str]]) -> bool:
    containers, kinds = filters["container"], filters["event"]
    fits = not containers or any(word == event.name or event.identity.startswith(word) for word in containers)
    return fits and (not kinds or event.kind in kinds)


def _filters(words: list[str]) -> dict[str, list[str]]:
    """Return the values by key: one of each key must fit. Raises SpecError."""
    found: dict[str, list[str]] = {"container": [], "event": []}
    for word in words:
        key, _, value = word.partition("=")
        if key not in found or not value:
            raise SpecError("filter", word, "must be container=ID|NAME or event=NAME")
        if key == "event" and value not in KINDS:
            raise SpecError("filter", word, "no such event", "one of " + " ".join(KINDS))
        found[key].append(value)
    return found


def _moment(field: str, text: str | None) -> float | None:
    """Return seconds since the epoch: of a count of them, of a duration back from now, or of a date. Raises SpecError."""
    if text is None:
        return None
    plain = text.replace(".", "", 1)
    if plain.isascii() and plain.isdigit() and len(plain) < 20:
        return float(text)
    if text == "0s":  # as docker's users say "now"
        return time.time()
    if text[-1:] in ("s", "m", "h"):
        return time.time() - (parse_seconds(field, text) or 0.0)
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise SpecError(field, text, "not a time", "10m for ten minutes ago, 1700000000, or 2026-01-31T12:00:00") from None
