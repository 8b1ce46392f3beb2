"""Which containers there are: the records of those that run (state.py) and the kept ones (kept.py), as one list."""

from __future__ import annotations

import os

from pybox import kept, state
from pybox.dirs import Dirs
from pybox.errors import StateError
from pybox.host import read
from pybox.kept import Kept
from pybox.kernel.freezer import frozen
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from pybox.fastjson import Json

    Status = Literal["created", "running", "paused", "restarting", "exited", "dead"]


class Entry(Record):
    """A container as its record shows it; dead: its pybox was killed, and nobody has cleaned up yet."""

    identity: str
    name: str
    path: str  # of its state directory, which need not be there
    status: Status
    pid: int | None  # of its process 1, on the host
    journal: dict[str, Json]
    result: dict[str, Json] | None

    @property
    def alive(self) -> bool:
        """Whether somebody looks after it right now."""
        return self.status in ("running", "paused", "restarting") or (self.status == "created" and bool(self.journal))

    @property
    def groups(self) -> tuple[tuple[str, str], ...]:
        """The (controller, directory) of its control groups."""
        return _groups(self.journal)


def _groups(journal: dict[str, Json]) -> tuple[tuple[str, str], ...]:
    found = journal.get("groups")
    rows = found if isinstance(found, list) else []
    return tuple((str(row[0]), str(row[1])) for row in rows if isinstance(row, list) and len(row) == 2)


def entries(dirs: Dirs) -> list[Entry]:
    """Return all containers, oldest first."""
    try:
        found = {name for name in os.listdir(dirs.state) if state.is_id(name)}
    except FileNotFoundError:
        found = set()
    found |= {name for name in kept.identities(dirs) if state.is_id(name)}
    names = state.names_by_id(dirs)
    loaded = [entry for identity in found if (entry := load(dirs, identity, names.get(identity, ""))) is not None]
    return sorted(loaded, key=lambda entry: (_seconds(entry.journal.get("created")), entry.identity))


def _seconds(created: Json) -> float:
    return float(created) if isinstance(created, (int, float)) else 0.0


def load(dirs: Dirs, identity: str, name: str) -> Entry | None:
    """Return one container by its id; None when it is being made or removed right now."""
    path = f"{dirs.state}/{identity}"
    said, _, pid = read(f"{path}/journal").partition("\n")
    journal = state.parse(said)
    result = state.parse(read(f"{path}/result"))
    lives = owner_lives(path)
    status: Status
    if journal is None:  # between two runs, or before the first
        rest = _at_rest(dirs, identity, name, path)
        if not lives and result is None:
            return rest
        journal = rest.journal if rest is not None else {}
    if result is not None:  # it has ended, whoever holds the lock to look at its files or is cleaning up
        status = "exited"
    elif lives:
        status = "running" if pid else "restarting" if os.path.exists(f"{path}/restarts") else "created"
        if status == "running" and frozen(_groups(journal)):
            status = "paused"
    else:
        status = "dead"
    return Entry(identity, name, path, status, int(pid) if lives and pid.isdigit() else None, journal, result)


def _at_rest(dirs: Dirs, identity: str, name: str, path: str) -> Entry | None:
    """Return a container that has only its config: it was created and never started, or the machine went down under it."""
    try:
        found = kept.load(dirs, identity)
    except StateError:  # of another version; `rm` removes it all the same
        found = None
    if found is None:
        return None if not os.path.isdir(kept.folder(dirs, identity)) else Entry(identity, name, path, "dead", None, {}, None)
    journal: dict[str, Json] = {
        "image": found.spec.image,
        "image_id": found.image_id,
        "layers": found.layers,
        "args": found.spec.args,
        "created": found.created,
    }
    started = os.path.exists(f"{kept.folder(dirs, identity)}/log")
    lost: dict[str, Json] = {"reason": "lost", "exit_code": 255, "error": "the machine went down while it ran"}
    return Entry(identity, name or found.name, path, "exited" if started else "created", None, journal, lost if started else None)


def owner_lives(path: str) -> bool:
    """Return whether somebody holds the lock of a record."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        from fcntl import LOCK_NB, LOCK_SH, flock

        flock(fd, LOCK_SH | LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def wait_for_owner(path: str, seconds: float | None) -> bool:
    """Wait until nobody looks after a container any more; False when the time is up. The record is complete then."""
    from time import monotonic, sleep

    limit = None if seconds is None else monotonic() + seconds
    pause = 0.002
    while owner_lives(path):
        if limit is not None and monotonic() > limit:
            return False
        sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return True


def hold(dirs: Dirs, entry: Entry) -> int:
    """Lock a container that does not run: nobody starts or removes it meanwhile. Close the fd to let go. Raises StateError."""
    if not os.path.isdir(entry.path):
        return kept.lock(dirs, entry.identity)
    fd = state.claim_dead(dirs, entry.identity)
    if os.fstat(fd).st_nlink > 0 and os.path.exists(f"{entry.path}/result"):
        return fd
    os.close(fd)
    raise StateError(f"container {entry.identity} was just removed or started", "`pybox ps -a` lists them")


def find(dirs: Dirs, wanted: str) -> Entry:
    """Return the container of an id, an unambiguous beginning of an id, or a name. Raises StateError."""
    all_of_them = entries(dirs)
    exact = [entry for entry in all_of_them if wanted and wanted in (entry.identity, entry.name)]
    found = exact or [entry for entry in all_of_them if wanted and entry.identity.startswith(wanted)]
    if not found:
        raise StateError(f"no such container: {wanted}", "`pybox ps -a` lists them")
    if len(found) > 1:
        raise StateError(f"{wanted} is ambiguous: " + ", ".join(entry.identity for entry in found), "give more of the id")
    return found[0]


def layers_in_use(dirs: Dirs) -> frozenset[str]:
    """Return the paths of the layers that listed containers stand on: they must not be removed."""
    found: set[str] = set()
    for entry in entries(dirs):
        layers = entry.journal.get("layers")
        if isinstance(layers, (list, tuple)):
            found.update(str(layer) for layer in layers)
    return frozenset(found)


def config(dirs: Dirs, entry: Entry) -> Kept:
    """Return what a kept container is. Raises StateError for one that was not kept (--rm in the foreground)."""
    found = kept.load(dirs, entry.identity)
    if found is None:
        raise StateError(f"container {entry.identity} is not kept", "it was started with --rm, and can't be started again")
    return found
