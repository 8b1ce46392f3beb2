"""What `ps` and `inspect` show of a container, gathered from its record and its config; docker's words for how it is; the filters."""

from __future__ import annotations

import os

from pybox import health, kept, listing, state
from pybox.dirs import Dirs
from pybox.errors import PyboxError, SpecError
from pybox.health import Condition
from pybox.host import read
from pybox.listing import Entry
from pybox.record import Record
from pybox.times import lasting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybox.fastjson import Json

FILTERS = ("name", "id", "status", "label", "exited", "ancestor", "health")
_STATUSES = ("created", "running", "paused", "restarting", "exited", "dead")
_WHY = {"timeout": "time-out", "oom": "out of memory", "launch-failed": "could not start", "lost": "nobody saw its end"}


class View(Record):
    """A container as a person wants to see it. Times are seconds since the epoch."""

    entry: Entry
    labels: dict[str, str]
    restarts: int
    condition: Condition | None  # None: nobody checks

    def time(self, name: str) -> float | None:
        """Return when it was created, started or ended; None when it was not, or nobody knows."""
        journal, result = self.entry.journal, self.entry.result or {}
        ended, wall = _number(result.get("ended")), _number(result.get("wall"))
        if name == "ended":
            return ended
        if name == "created":
            return _number(journal.get("created"))
        if ended is not None and wall is not None:
            return ended - wall
        # of a foreground run both are one
        return _number(journal.get("started", journal.get("created"))) if self.entry.pid is not None else None

    @property
    def health(self) -> str:
        """starting, healthy or unhealthy; none for one that does not run or is not checked."""
        return self.condition.status if self.condition is not None and self.entry.pid is not None else "none"

    @property
    def exit_code(self) -> int | None:
        """How it ended, if it has."""
        code = (self.entry.result or {}).get("exit_code")
        return code if isinstance(code, int) else None

    def status(self, now: float) -> str:
        """Return docker's words for it: ``Up 3 minutes (healthy)``, ``Exited (1) 2 seconds ago``."""
        state_of = self.entry.status
        if state_of in ("running", "paused"):
            words = f"Up {lasting(now - (self.time('started') or now))}"
            if state_of == "paused":
                return f"{words} (Paused)"
            return (
                words
                if self.health == "none"
                else f"{words} ({'health: starting' if self.health == 'starting' else self.health})"
            )
        if state_of in ("exited", "restarting"):
            ended, code = self.time("ended"), self.exit_code
            words = "Exited" if state_of == "exited" else "Restarting"
            words += f" ({code})" if isinstance(code, int) else ""
            words += f" {lasting(now - ended)} ago" if ended is not None else ""
            why = _WHY.get(str((self.entry.result or {}).get("reason")))
            return f"{words} ({why})" if why and state_of == "exited" else words
        return "Created" if state_of == "created" else "Dead (pybox killed)"

    def to_json(self) -> dict[str, Json]:
        """Return what `ps --format json` shows, and `inspect` at its top."""
        entry, result = self.entry, self.entry.result or {}
        return {
            "id": entry.identity,
            "name": entry.name,
            "image": entry.journal.get("image", ""),
            "image_id": entry.journal.get("image_id", ""),
            "args": entry.journal.get("args", []),
            "created": self.time("created"),
            "started": self.time("started"),
            "ended": self.time("ended"),
            "status": entry.status,
            "alive": entry.alive,
            "pid": entry.pid,
            "health": self.health,
            "reason": result.get("reason"),
            "exit_code": result.get("exit_code"),
            "restarts": self.restarts,
            "labels": dict(self.labels),
        }


def _number(value: Json) -> float | None:
    """Return a time that makes sense; a record may say anything."""
    return float(value) if isinstance(value, (int, float)) and 0 < value < 1e11 else None


def view(dirs: Dirs, entry: Entry) -> View:
    """Gather what there is."""
    # not kept.load: hundreds may be listed, and what another version has kept is shown too
    config = state.parse(read(f"{kept.folder(dirs, entry.identity)}/config")) or {}
    pairs, asked = config.get("labels"), config.get("health")
    labels = (
        {str(pair[0]): str(pair[1]) for pair in pairs if isinstance(pair, list) and len(pair) == 2}
        if isinstance(pairs, list)
        else {}
    )
    restarts = read(f"{entry.path}/restarts") if entry.alive or entry.result else ""
    checked = isinstance(asked, dict) and bool(asked.get("command"))
    condition = health.load(entry.path) if checked else None
    return View(entry, labels, int(restarts) if restarts.isdigit() else 0, condition)


class Filter(Record):
    """One --filter, KEY=VALUE; of several with one key one must hold, but every label must."""

    key: str
    value: str

    def validate(self) -> None:
        if self.key not in FILTERS:
            raise SpecError("filter", self.key, "not known", f"one of {', '.join(FILTERS)}, as in --filter name=web")
        known = {"status": _STATUSES, "health": (*health.STATUSES, "none")}.get(self.key)
        if known and self.value not in known:
            raise SpecError("filter", f"{self.key}={self.value}", f"must be one of {', '.join(known)}")
        if self.key == "exited" and not (self.value.isascii() and self.value.isdigit() and len(self.value) < 10):
            raise SpecError("filter", f"exited={self.value}", "must be an exit status, e.g. exited=0")


def filters(texts: Sequence[str]) -> list[Filter]:
    """Read the words of --filter. Raises SpecError."""
    found = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not value:
            raise SpecError("filter", text, "must be KEY=VALUE", f"KEY is one of {', '.join(FILTERS)}")
        found.append(Filter(key, value))
    return found


def matches(dirs: Dirs, one: View, wanted: Sequence[Filter]) -> bool:
    """Return whether a container is one of those asked for. Raises SpecError for a name that is no pattern."""
    for key in {each.key for each in wanted}:
        answers = [_matches(dirs, one, each) for each in wanted if each.key == key]
        if not (all if key == "label" else any)(answers):
            return False
    return True


def _matches(dirs: Dirs, one: View, wanted: Filter) -> bool:
    value = wanted.value
    if wanted.key == "name":
        return _named(one.entry.name, value)
    if wanted.key == "id":
        return one.entry.identity.startswith(value.lower())
    if wanted.key == "status":
        return one.entry.status == value
    if wanted.key == "label":
        key, equals, text = value.partition("=")
        return key in one.labels and (not equals or one.labels[key] == text)
    if wanted.key == "exited":
        return one.entry.status == "exited" and one.exit_code == int(value)
    if wanted.key == "health":
        return one.health == value
    return _descends(dirs, one.entry, value)


def _named(name: str, pattern: str) -> bool:
    """Return whether a name matches: docker takes a regular expression that may match anywhere."""
    if pattern.replace("-", "").replace("_", "").isalnum():
        return pattern in name
    import re

    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise SpecError("filter", f"name={pattern}", f"not a regular expression: {error}") from None


def _descends(dirs: Dirs, entry: Entry, name: str) -> bool:
    """Return whether a container is of an image, or of one that was made on top of it."""
    from pybox.image import store

    if entry.journal.get("image") == name:
        return True
    try:
        image = store.find(dirs, name)
    except PyboxError:
        return False
    layers = entry.journal.get("layers")
    own = tuple(str(layer) for layer in layers) if isinstance(layers, (list, tuple)) else ()
    return image.id == entry.journal.get("image_id") or (
        len(own) >= len(image.layers) > 0 and own[-len(image.layers) :] == image.layers
    )


def disk_use(dirs: Dirs, entry: Entry) -> int:
    """Return how many bytes of the disk a container's writable layer takes; one in memory takes none."""
    return tree_use(f"{dirs.uppers}/{entry.identity}")


def tree_use(path: str) -> int:
    """Return how many bytes of the disk the files below a directory take; none where there is no such directory."""
    total, folders = 0, [path]
    while folders:
        try:
            with os.scandir(folders.pop()) as found:
                for item in found:
                    total += item.stat(follow_symlinks=False).st_blocks * 512
                    if item.is_dir(follow_symlinks=False):
                        folders.append(item.path)
        except OSError:  # it goes on living meanwhile
            pass
    return total


def find(dirs: Dirs, wanted: str) -> View:
    """Return the container of an id, an unambiguous beginning of one, or a name. Raises StateError."""
    return view(dirs, listing.find(dirs, wanted))
