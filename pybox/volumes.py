"""Volumes: directories with a name that outlive containers, and begin with what the image has at their place.

    <store>/volumes/NAME/data/          what is shown in containers
    <store>/volumes/NAME/volume.json    when and for what it was made

A volume appears by one rename, filled: a pybox that is killed while it copies leaves a workspace that the next one removes. In a
Spec a volume is the path of its data, so all that follows (plans, records, restarts) knows of binds only. One without a name
(``-v DST``) has 64 hex digits for it; it is made with its container, and goes with it by --rm and by `pybox rm -v`.
"""

from __future__ import annotations

import os

from pybox import fastjson
from pybox.dirs import Dirs, ensure
from pybox.errors import PyboxError, SpecError, StateError
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pybox.image.lock import Lock
    from pybox.planner import Planner
    from pybox.spec import Mount, Spec


class Volume(Record):
    """A volume as it is listed."""

    name: str
    path: str  # of its data, on the host
    created: float  # seconds since the epoch
    labels: tuple[str, ...] = ()
    users: tuple[str, ...] = ()  # ids of the containers that show it


def find(dirs: Dirs, name: str) -> Volume:
    """Return a volume. Raises StateError."""
    for volume in volumes(dirs):
        if volume.name == name:
            return volume
    raise StateError(f"no such volume: {name if name.isprintable() else ascii(name)}", "`pybox volume ls` lists them")


def volumes(dirs: Dirs) -> list[Volume]:
    """Return all volumes, by name."""
    users = _users(dirs)
    found = []
    try:
        names = sorted(os.listdir(f"{dirs.store}/volumes"))
    except FileNotFoundError:
        return []
    for name in names:
        path = f"{dirs.store}/volumes/{name}"
        try:
            with open(f"{path}/volume.json", encoding="ascii") as file:
                record = fastjson.loads(file.read())
        except (OSError, ValueError):  # just removed
            continue
        if isinstance(record, dict):
            created, labels = record.get("created"), record.get("labels")
            when = float(created) if isinstance(created, (int, float)) else 0.0
            notes = tuple(map(str, labels)) if isinstance(labels, list) else ()
            found.append(Volume(name, f"{path}/data", when, notes, tuple(users.get(f"{path}/data", ()))))
    return found


def create(dirs: Dirs, name: str, labels: Iterable[str] = ()) -> Volume:
    """Make an empty volume, or find the one that is there. Raises SpecError for a name that can't be one."""
    from pybox.text import volume_name

    _publish(dirs, volume_name(name), tuple(labels), None)
    return find(dirs, name)


def _users(dirs: Dirs) -> dict[str, list[str]]:
    """Return {path of the data: ids of the containers that show it}."""
    from pybox import listing

    users: dict[str, list[str]] = {}
    for entry in listing.entries(dirs):
        for mount in listing.mounts(dirs, entry):
            if isinstance(source := mount.get("source"), str):
                users.setdefault(source, []).append(entry.identity)
    return users


def remove(dirs: Dirs, name: str) -> None:
    """Remove a volume and what is in it. Raises StateError while a container shows it.

    It is taken away and looked at once more, for a container may be starting: its journal is written before it mounts. So
    either that is seen here, and the volume comes back, or the container finds no volume and says so.
    """
    from pybox.image.lock import Workspace

    volume = find(dirs, name)
    _refuse(name, volume.users)
    path = volume.path.removesuffix("/data")
    with Workspace(dirs.store) as work, _lock(dirs):  # nobody makes another one of that name meanwhile
        try:
            os.rename(path, f"{work}/volume")
        except FileNotFoundError:
            raise StateError(f"volume {name} was just removed") from None
        if users := _users(dirs).get(volume.path):
            os.rename(f"{work}/volume", path)
            _refuse(name, users)


def _refuse(name: str, users: Sequence[str]) -> None:
    if users:
        raise StateError(f"volume {name} is in use by container {users[0]}", "remove the container first: pybox rm")


def _lock(dirs: Dirs) -> Lock:
    """Return the lock on the names of volumes."""
    from pybox.image.lock import Lock

    ensure(f"{dirs.store}/locks")
    return Lock(f"{dirs.store}/locks/volumes")


def leave(dirs: Dirs, spec: Spec) -> None:
    """Remove the volumes without a name of a container that is gone, but none that another one shows."""
    for mount in spec.mounts:
        if mount.anonymous and mount.source is not None:
            try:
                remove(dirs, name_of(dirs, mount.source))
            except StateError:  # it was never started, or somebody else has taken a liking to it
                pass


def prepare(planner: Planner, spec: Spec, *, anonymous: bool = False) -> None:
    """Make the volumes of a run that are not there yet, with what the image has at their place. Raises a PyboxError.

    Those without a name are made by a call of their own, when they are in the journal: they may have to go with the container.
    """
    for mount in spec.mounts:
        if mount.source is None or mount.anonymous != anonymous or os.path.isdir(mount.source):
            continue
        if name := name_of(planner.dirs, mount.source):
            _publish(planner.dirs, name, (), (planner, spec, mount))


def name_of(dirs: Dirs, source: str) -> str:
    """Return the name of the volume whose data a mount shows, "" for any other directory."""
    head, tail = f"{dirs.store}/volumes/", "/data"
    inner = source[len(head) : -len(tail)] if source.startswith(head) and source.endswith(tail) else ""
    return "" if "/" in inner else inner


def _publish(dirs: Dirs, name: str, labels: tuple[str, ...], wanted: tuple[Planner, Spec, Mount] | None) -> None:
    from time import time

    from pybox.image.lock import Workspace, sweep

    ensure(dirs.store, 0o711)
    ensure(f"{dirs.store}/volumes", 0o711)
    sweep(dirs.store)
    with Workspace(dirs.store) as work:
        folder = f"{work}/volume"
        os.mkdir(folder, 0o711)
        os.mkdir(f"{folder}/data", 0o755)
        os.chmod(f"{folder}/data", 0o755)  # whatever the caller's umask
        if wanted is not None:
            _fill(*wanted, f"{folder}/data")
        with open(f"{folder}/volume.json", "w", encoding="ascii") as file:
            file.write(fastjson.dumps({"created": time(), "labels": list(labels)}))
        with _lock(dirs):
            try:
                os.rename(folder, f"{dirs.store}/volumes/{name}")
            except OSError as error:
                if not os.path.isdir(f"{dirs.store}/volumes/{name}/data"):
                    raise SpecError("volume", name, f"it can't be made: {error.strerror}") from None
                # another pybox was quicker, and its volume is complete


def _fill(planner: Planner, spec: Spec, mount: Mount, data: str) -> None:
    """Copy what the image has where the volume will be shown; nothing, if it has no directory there."""
    from pybox.files import views
    from pybox.files.place import Place
    from pybox.files.putting import Putter
    from pybox.files.taking import Taker
    from pybox.files.worker import Notes, Reader, Worker, chunks_of, write
    from pybox.image import tape as tapes

    given = planner.inputs(spec.replace(mounts=()))
    if given.image.id == "host":  # a machine's own directories are shown by binds, not copied
        return
    held = views.image(given)
    try:
        try:
            source = Place(held.root).folder(mount.target)
        except PyboxError:
            return
        status, notes = os.fstat(source), Notes()
        root = given.facts.root

        def send(fd: int, inner: Notes) -> None:
            write(fd, Taker(inner).tar(source, b"."))

        try:
            with Worker(-1 if root else held.userns, send, sends=True, notes=notes) as fd:
                reader = Reader(fd)
                tape = tapes.Tape(reader, hashed=False)
                target = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                putter = Putter(tape, target, [], notes, keep=root, owner=None)
                try:
                    putter.run(tapes.entries(tape))
                    for _ in chunks_of(reader):
                        pass
                finally:
                    putter.close()
                    os.close(target)
        finally:
            os.close(source)
        if root:
            os.chown(data, status.st_uid, status.st_gid)
        os.chmod(data, status.st_mode & 0o7777)
    finally:
        held.close()
