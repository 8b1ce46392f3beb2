"""Kept containers: what a container without --rm is, whether it runs or not. On disk, so it outlives its processes and a reboot.

    <store>/containers/ID/config    JSON: what to run and how to look after it; written by rename, so it is whole or absent
    <store>/containers/ID/log       what it wrote, if it is looked after by pybox-monitor; log.1, log.2 are older
    <store>/containers/ID/stopped   is there when somebody has stopped it: it shall not come back by itself

flock(2) on the directory is the lock of a command that changes the container (start, rm, rename, update): one at a time, and
nobody waits for another container's. Its state while it runs is state.py's.
"""

from __future__ import annotations

import os

from pybox import fastjson, specjson
from pybox.dirs import Dirs, ensure
from pybox.errors import StateError
from pybox.host import read
from pybox.record import Record
from pybox.spec import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json


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


def write(dirs: Dirs, kept: Kept) -> None:
    """Create a container, or change what it is. Raises OSError; then it is as before."""
    path = folder(dirs, kept.identity)
    ensure(path)
    fd = os.open(f"{path}/config.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, fastjson.dumps(kept.to_json()).encode())
    finally:
        os.close(fd)
    os.rename(f"{path}/config.new", f"{path}/config")


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


def lock(dirs: Dirs, identity: str) -> int:
    """Take the lock of a kept container; returns an fd, closing it lets go. Raises StateError when another command has it."""
    from fcntl import LOCK_EX, LOCK_NB, flock

    try:
        fd = os.open(folder(dirs, identity), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise StateError(f"container {identity} was just removed") from None
    try:
        flock(fd, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise StateError(f"container {identity} is busy with another command", "try again in a moment") from None
    return fd


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
    return os.path.exists(f"{folder(dirs, identity)}/stopped")
