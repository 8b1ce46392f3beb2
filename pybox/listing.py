"""Which containers there are: the records of those that run (state.py) and the kept ones (kept.py), as one list."""

from __future__ import annotations

import posix as os

from pybox import burial, kept, state
from pybox.dirs import Dirs
from pybox.errors import ImageError, StateError
from pybox.host import read
from pybox.image import store
from pybox.kept import Kept
from pybox.kernel.freezer import frozen
from pybox.paths import exists
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from pybox.fastjson import Json

    Status = Literal["created", "running", "paused", "restarting", "exited", "dead"]


class Entry(Record):
    """A container as its record shows it.

    created      it has not run yet; ``alive``: it is just being started
    restarting   it has ended and waits to be started again by its policy
    dead         its pybox was killed, and nobody has cleaned up yet
    """

    identity: str
    name: str
    path: str  # of its state directory, which need not be there
    status: Status
    pid: int | None  # of its process 1, on the host
    journal: dict[str, Json]
    result: dict[str, Json] | None
    alive: bool = False  # somebody looks after it right now

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
    names = {identity: name for name, identity in state.names(dirs)}
    loaded = [entry for identity in _identities(dirs) if (entry := load(dirs, identity, names.get(identity, ""))) is not None]
    return sorted(loaded, key=lambda entry: (_seconds(entry.journal.get("created")), entry.identity))


def _identities(dirs: Dirs) -> set[str]:
    try:
        found = set(os.listdir(dirs.state))
    except FileNotFoundError:
        found = set()
    return {name for name in found.union(kept.identities(dirs)) if state.is_id(name)}


def _seconds(created: Json) -> float:
    return float(created) if isinstance(created, (int, float)) else 0.0


def load(dirs: Dirs, identity: str, name: str) -> Entry | None:
    """Return one container by its id; None when it is being made or removed right now."""
    path = f"{dirs.state}/{identity}"
    lives = owner_lives(path)  # first: what is read of a container that has no owner does not change under us
    said, _, pid = read(f"{path}/journal").partition("\n")
    journal = state.parse(said)
    if not lives:
        return _at_rest(dirs, identity, name, path, journal)
    if journal is not None and pid.isdigit():
        status: Status = "paused" if frozen(_groups(journal)) else "running"
        return Entry(identity, name, path, status, int(pid), journal, None, alive=True)
    again = exists(f"{path}/restarts")
    if not owner_lives(path):  # it ended just now
        return _at_rest(dirs, identity, name, path, journal)
    status = "restarting" if again else "created"
    config = kept.plain(dirs, identity)
    if journal is None:
        journal = {} if config is None else _as_journal(config)
    return Entry(identity, name, path, status, None, journal, kept.result(dirs, identity) if again else None, alive=True)


def _at_rest(dirs: Dirs, identity: str, name: str, path: str, journal: dict[str, Json] | None) -> Entry | None:
    """Return a container that nobody looks after: it has not run yet, it has ended, or its owner or the machine died."""
    result = None
    config = kept.plain(dirs, identity)
    if config is None:
        if not journal and not kept.exists(dirs, identity):
            return None
        return Entry(identity, name, path, "dead", None, journal or {}, None)
    name = name or str(config.get("name", ""))
    if not kept.is_running(dirs, identity):
        result = kept.result(dirs, identity)
        status: Status = "created" if result is None else "exited"
    elif journal is not None:
        status = "dead"
    else:
        result, status = burial.lost(identity, "the machine went down while it ran"), "exited"
    return Entry(identity, name, path, status, None, journal or _as_journal(config, result), result)


def _as_journal(config: dict[str, Json], result: dict[str, Json] | None = None) -> dict[str, Json]:
    """Return what a journal would say of a kept container that has none."""
    spec = config.get("spec")
    spec = spec if isinstance(spec, dict) else {}
    return {
        "image": spec.get("image", ""),
        "image_id": config.get("image_id", ""),
        "layers": config.get("layers", []),
        "args": (result or {}).get("args") or spec.get("args", []),
        "created": config.get("created"),
    }


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
    """Lock a kept container that does not run: nobody starts or removes it meanwhile. Close the fd to let go. Raises StateError."""
    fd = kept.lock(dirs, entry.identity)
    again = load(dirs, entry.identity, entry.name)
    if again is not None and not again.alive:
        return fd
    os.close(fd)
    raise StateError(f"container {entry.identity} was just removed or started", "`pybox ps -a` lists them")


def find(dirs: Dirs, wanted: str) -> Entry:
    """Return the container of an id, an unambiguous beginning of an id, or a name. Raises StateError."""
    missing = StateError(f"no such container: {wanted}", "`pybox ps -a` lists them")
    if not wanted or "/" in wanted:
        raise missing
    known = state.holder(dirs, wanted)
    if known and (entry := load(dirs, known, wanted)) is not None:
        return entry
    matching = [identity for identity in _identities(dirs) if identity.startswith(wanted)]
    names = {identity: name for name, identity in state.names(dirs)} if matching else {}
    found = [entry for identity in matching if (entry := load(dirs, identity, names.get(identity, ""))) is not None]
    if not found:
        raise missing
    if len(found) > 1:
        raise StateError(f"{wanted} is ambiguous: " + ", ".join(sorted(entry.identity for entry in found)), "give more of the id")
    return found[0]


def layers_in_use(dirs: Dirs) -> frozenset[str]:
    """Return the paths of the layers that listed containers stand on, or show by a mount: they must not be removed."""
    found: set[str] = set()
    for entry in entries(dirs):
        layers = entry.journal.get("layers")
        if isinstance(layers, (list, tuple)):
            found.update(str(layer) for layer in layers)
        for mount in mounts(dirs, entry):
            if isinstance(image := mount.get("image"), str):
                try:
                    found.update(store.find(dirs, image).layers)
                except ImageError:  # the container can't be started any more
                    pass
    return frozenset(found)


def mounts(dirs: Dirs, entry: Entry) -> list[dict[str, Json]]:
    """Return the mounts of a container, as its Spec has them."""
    # the journal goes when a container ends; its configuration stays until it is removed
    spec = entry.journal.get("spec") or (kept.plain(dirs, entry.identity) or {}).get("spec")
    found = spec.get("mounts") if isinstance(spec, dict) else None
    return [mount for mount in found if isinstance(mount, dict)] if isinstance(found, (list, tuple)) else []


def config(dirs: Dirs, entry: Entry) -> Kept:
    """Return what a kept container is. Raises StateError for one that was not kept (--rm in the foreground)."""
    found = kept.load(dirs, entry.identity)
    if found is None:
        raise StateError(f"container {entry.identity} is not kept", "it was started with --rm, and can't be started again")
    return found
