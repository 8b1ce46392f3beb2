"""Kept containers: what a container without --rm is, whether it runs or not. On disk, so it outlives its processes and a reboot.

    <store>/containers/ID/config    JSON: what to run and how to look after it. Written by rename: it is whole or absent, and
                                    without it there is no container, only a folder that is being made or removed
    <store>/containers/ID/running   from the start to the end: blanks, which are the room that the result will need, also on a
                                    disk that is full by then
    <store>/containers/ID/result    JSON: how it ended the last time; it was ``running``, and became this by rename
    <store>/containers/ID/log       what it wrote, if it is looked after by pybox-monitor; log.1, log.2 are older
    <store>/containers/ID/stopped   is there when somebody has stopped it: it shall not come back by itself

flock(2) on the directory is the lock of a command that changes the container (start, rm, rename, update): one at a time, and
nobody waits for another container's. Its state while it runs is state.py's.
"""

from __future__ import annotations

import posix as os

from pybox import fastjson, paths, specjson
from pybox.dirs import Dirs, ensure
from pybox.errors import StateError
from pybox.host import read
from pybox.record import Record
from pybox.spec import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json


ROOM = 4096  # bytes for a result, beside the words of the command
PATIENCE = 20.0  # seconds that a command waits for another one that changes the same container


class Health(Record):
    """How to find out whether the command still does its work: a command that is executed in the container now and then."""

    command: tuple[str, ...]
    interval: float = 30.0  # seconds
    timeout: float = 30.0  # seconds
    retries: int = 3  # failures in a row that make it unhealthy
    start_period: float = 0.0  # seconds in which failures don't count


class Kept(Record):
    """A container as it was asked for."""

    identity: str
    spec: Spec
    image_id: str = ""
    layers: tuple[str, ...] = ()  # topmost first; must not be removed while this container is there
    name: str = ""
    created: float = 0.0  # seconds since the epoch
    remove: bool = False  # --rm
    restart: str = "no"  # no, always, unless-stopped, on-failure or on-failure:N
    stdin: bool = False  # -i: its standard input stays open
    timeout: float | None = None  # seconds
    log_size: int = 10 << 20  # bytes, after which the log is rotated; 0 never
    log_files: int = 3
    health: Health | None = None
    labels: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Return the config as JSON."""
        return {"schema": "pybox.config/1", **specjson.to_json(self), "spec": specjson.to_json(self.spec)}


def from_json(value: Json) -> Kept:
    """Return the container of a config. Raises StateError for one that another version has written."""
    if not isinstance(value, dict) or value.get("schema") != "pybox.config/1":
        raise StateError("a container's config is not of this version of pybox")
    fields: dict[str, object] = {name: specjson.tuples(entry) for name, entry in value.items() if name != "schema"}
    health = value.get("health")
    try:
        fields["spec"] = specjson.from_json(value["spec"])
        if isinstance(health, dict):
            fields["health"] = Health.of({name: specjson.tuples(entry) for name, entry in health.items()})
        return Kept.of(fields)
    except (TypeError, KeyError) as error:
        raise StateError(f"a container's config is of another version of pybox: {error}") from None


def folder(dirs: Dirs, identity: str) -> str:
    """Return the directory of a kept container."""
    return f"{dirs.store}/containers/{identity}"


def make(dirs: Dirs, identity: str) -> int:
    """Make the directory of a new container; returns its lock. Without a config it is nobody's, and gc removes it when unlocked."""
    path = folder(dirs, identity)
    ensure(path.rpartition("/")[0])
    for _ in range(100):
        try:
            os.mkdir(path, 0o700)
            return lock(dirs, identity)
        except StateError:  # swept between mkdir and lock
            continue
    raise StateError(f"cannot make {path}")


def write(dirs: Dirs, kept: Kept) -> None:
    """Write down what a container is; its directory is there. Raises OSError; then it is as before."""
    path = folder(dirs, kept.identity)
    _put(f"{path}/config.new", fastjson.dumps(kept.to_json()), os.O_TRUNC)
    os.rename(f"{path}/config.new", f"{path}/config")


def begin(dirs: Dirs, identity: str, room: int) -> None:
    """Mark a container as running, and take the room on the disk for how it will end: ``room`` bytes. Raises OSError."""
    _put(f"{folder(dirs, identity)}/running", " " * room, os.O_TRUNC)


def end(dirs: Dirs, identity: str, result: Json) -> None:
    """Record how a container ended; nothing if it was removed meanwhile. Raises OSError."""
    path = folder(dirs, identity)
    try:
        _put(f"{path}/running", fastjson.dumps(result), 0)
        os.rename(f"{path}/running", f"{path}/result")
    except FileNotFoundError:
        pass


def _put(path: str, text: str, flags: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        data = text.encode()
        while data:
            data = data[os.write(fd, data) :]
        os.ftruncate(fd, len(text.encode()))
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def is_running(dirs: Dirs, identity: str) -> bool:
    """Return whether it was started and its end is not recorded: it runs, or who looked after it was killed."""
    return paths.exists(f"{folder(dirs, identity)}/running")


def result(dirs: Dirs, identity: str) -> dict[str, Json] | None:
    """Return how it ended the last time, None if it never did."""
    return _parse(f"{folder(dirs, identity)}/result")


def plain(dirs: Dirs, identity: str) -> dict[str, Json] | None:
    """Return the config as it stands there, for who only lists; None when there is none or it can't be read."""
    return _parse(f"{folder(dirs, identity)}/config")


def _parse(path: str) -> dict[str, Json] | None:
    try:
        value = fastjson.loads(read(path))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def exists(dirs: Dirs, identity: str) -> bool:
    """Return whether there is such a container."""
    return paths.exists(f"{folder(dirs, identity)}/config")


def load(dirs: Dirs, identity: str) -> Kept | None:
    """Return a kept container; None when there is none. Raises StateError for a config that can't be read."""
    text = read(f"{folder(dirs, identity)}/config")
    if not text:
        return None
    try:
        return from_json(fastjson.loads(text))
    except ValueError as error:
        raise StateError(f"{folder(dirs, identity)}/config: {error}") from None


def identities(dirs: Dirs) -> list[str]:
    """Return the ids of all kept containers."""
    try:
        return os.listdir(f"{dirs.store}/containers")
    except FileNotFoundError:
        return []


def lock(dirs: Dirs, identity: str, patience: float = PATIENCE) -> int:
    """Take the lock of a kept container; returns an fd, closing it lets go.

    Raises StateError when it was removed, or when another command has the lock for all of ``patience`` (seconds).
    """
    from fcntl import LOCK_EX, LOCK_NB, flock
    from time import monotonic, sleep

    path = folder(dirs, identity)
    limit = monotonic() + patience
    while True:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise StateError(f"container {identity} was just removed") from None
        try:
            flock(fd, LOCK_EX | LOCK_NB)
            if os.fstat(fd)[1:3] == os.stat(path)[1:3]:  # inode and device
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
        if monotonic() >= limit:
            raise StateError(f"container {identity} is busy with another command", "try again in a moment")
        sleep(0.005)


def mark_stopped(dirs: Dirs, identity: str, stopped: bool) -> None:
    """Remember whether somebody has stopped it; see Kept.restart."""
    path = f"{folder(dirs, identity)}/stopped"
    try:
        if stopped:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass


def is_stopped(dirs: Dirs, identity: str) -> bool:
    """Return whether somebody has stopped it."""
    return paths.exists(f"{folder(dirs, identity)}/stopped")
