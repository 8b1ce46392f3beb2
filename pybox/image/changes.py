"""The store, write side: the only place that adds, renames or removes images and layers.

Crash rule: everything is built in a Workspace and becomes visible by one rename(2); what was renamed but not yet referred to is
debris that ``sweep`` finds. Lock rule: a loader holds the locks of its layers (sorted, so two loaders can't wait for each
other) until its image is published, so a remover can't take a layer away in between; those that are there already it shares with
others who need them, a slow push say. Names change under one short lock.
Readers take no lock. Nothing here calls fsync, as in containerd's default: killing pybox at any point loses nothing, but a power
cut right after a load may leave files empty; `save` finds that by the digest, and removing and loading the image mends it.
"""

from __future__ import annotations

import os

from pybox import fastjson
from pybox.dirs import Dirs, ensure
from pybox.errors import ImageError
from pybox.image import layerfile, lock, reference, seam, store
from pybox.image.lock import Lock, Workspace
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pybox.fastjson import Json
    from pybox.image.config import Config


class NewImage(Record):
    """An image whose layers are in place and that is about to be published."""

    config: Config
    names: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()  # manifest digests
    step: bool = False  # it is only there for the next build, see containerfile/cache.py

    @property
    def keys(self) -> tuple[str, ...]:
        """Layer keys, topmost first, each once: overlayfs refuses a directory given twice, and the upper one hides the lower."""
        return tuple(dict.fromkeys(store.layer_key(diff_id) for diff_id in reversed(self.config.diff_ids)))


class Removed(Record):
    """What ``remove`` did."""

    untagged: tuple[str, ...] = ()  # canonical names
    deleted: tuple[str, ...] = ()  # "sha256:..." of images, then layer keys


class Locks:
    """The locks of several layers at once, taken in order: alone for who makes a layer, ``shared`` for who only needs it to stay."""

    def __init__(self, dirs: Dirs, keys: Iterable[str] = (), *, shared: Iterable[str] = ()) -> None:
        alone = set(keys)
        self._paths = [(f"{dirs.store}/locks/{key}", key not in alone) for key in sorted(alone.union(shared))]
        self._held: list[tuple[str, int]] = []

    def __enter__(self) -> None:
        try:
            for path, shared in self._paths:
                fd = lock.take(path, shared=shared)
                assert fd is not None
                self._held.append((path, fd))
        except BaseException:  # an interrupt while waiting: those taken already must not outlive us in a long-lived process
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        for path, fd in self._held:
            lock.drop(path, fd)


def prepare(dirs: Dirs) -> None:
    """Create the directories of the store. Raises PyboxError when they belong to another user, ImageError when impossible."""
    try:
        for path in (dirs.store, dirs.layers, dirs.images, f"{dirs.images}/names", f"{dirs.store}/locks"):
            ensure(path)
    except OSError as error:
        raise ImageError(f"the store {dirs.store}: {error.strerror}", "PYBOX_STORE=DIR puts it elsewhere") from None


def place(dirs: Dirs, key: str, folder: str) -> None:
    """Move an unpacked layer from a workspace to its place; the caller holds its lock and its digest is verified."""
    if not present(dirs, layerfile.read(folder).diff_id):
        os.rename(folder, f"{dirs.layers}/{key}")


def present(dirs: Dirs, diff_id: str) -> bool:
    """Return whether the layer is in place. Raises ImageError when another one has its key (half a sha256 collides)."""
    folder = f"{dirs.layers}/{store.layer_key(diff_id)}"
    if not os.path.isdir(folder):
        return False
    try:
        there = layerfile.read(folder).diff_id
    except ImageError:
        if not os.path.isdir(folder):  # removed meanwhile, by one who had its lock
            return False
        there = layerfile.read(folder).diff_id  # and put there again
    if there != diff_id:
        raise ImageError(f"layers {there} and {diff_id} have the same key", "this is no accident: don't trust the archive")
    return True


def publish(dirs: Dirs, work: str, images: Iterable[NewImage]) -> None:
    """Make images visible, with their names; the caller holds the locks of their layers, which are in place."""
    images = list(images)
    seams = set()
    for image in images:
        key = image.config.id[7:]
        with open(f"{work}/{key}.config", "wb") as file:
            file.write(image.config.blob)
        layers = image.keys
        if sewn := seam.make(dirs, layers, work):
            seams.add(sewn)
            layers = (sewn, *layers)
        with open(f"{work}/{key}.json", "w", encoding="ascii") as text:
            text.write(fastjson.dumps(_run_record(dirs, image, layers)))
    with Lock(f"{dirs.store}/locks/names"):
        for key in seams:  # a remover or a sweep would need the lock that we hold
            if not os.path.isdir(f"{dirs.layers}/{key}"):
                os.rename(f"{work}/{key}", f"{dirs.layers}/{key}")
        for image in images:
            key = image.config.id[7:]
            os.rename(f"{work}/{key}.config", f"{dirs.images}/{key}.config")
            os.rename(f"{work}/{key}.json", f"{dirs.images}/{key}.json")
            for name in image.names:
                _point(dirs, work, name, key)


def _run_record(dirs: Dirs, image: NewImage, layers: tuple[str, ...]) -> dict[str, Json]:
    config = image.config
    known = _known_digests(dirs, config.id)
    return {
        "id": config.id,
        "layers": layers,
        "architecture": config.architecture,
        "env": config.run.env,
        "entrypoint": config.run.entrypoint,
        "cmd": config.run.cmd,
        "user": config.run.user,
        "workdir": config.run.workdir,
        "stop_signal": config.run.stop_signal,
        "ports": config.run.ports,
        "created": config.created,
        "size": sum(layerfile.read(f"{dirs.layers}/{key}").size for key in image.keys),
        "diff_ids": config.diff_ids,
        "digests": tuple(dict.fromkeys((*known, *image.digests))),
        **({"step": True} if image.step else {}),
    }


def _known_digests(dirs: Dirs, image_id: str) -> tuple[str, ...]:
    try:
        return store.stored(dirs, image_id).digests
    except ImageError:  # not there yet, or damaged and about to be replaced
        return ()


def _point(dirs: Dirs, work: str, name: str, key: str) -> None:
    """Let a name point to an image: a link made aside, then renamed, so that the name always exists."""
    os.symlink(f"../{key}.json", f"{work}/name")
    os.rename(f"{work}/name", f"{dirs.images}/names/{reference.filename(name)}")


def tag(dirs: Dirs, source: str, target: str) -> str:
    """Give an image one more name; returns its canonical form. Raises ImageNotFound, ImageError."""
    name = tag_name(target)
    prepare(dirs)
    with Workspace(dirs.store) as work, Lock(f"{dirs.store}/locks/names"):
        image = store.stored(dirs, source)
        _point(dirs, work, name, image.id[7:])
    return name


def tag_name(name: str) -> str:
    """Return the canonical form of a name that an image is to get. Raises ImageError when it can't be one."""
    parsed = reference.parse(name)
    if parsed.digest:
        raise ImageError(f"image name {name}: a digest is computed, it can't be given", "leave out the part from @ on")
    return str(parsed)


def remove(dirs: Dirs, name: str, in_use: frozenset[str] = frozenset()) -> Removed:
    """Untag an image; with its last name the image goes, and every layer that no other image has.

    ``in_use`` holds the layer paths of existing containers: an image whose layers would have to go from under one is refused.
    An id removes the image with its name, but only if it has at most one. Raises ImageNotFound, ImageError.
    """
    prepare(dirs)
    with Workspace(dirs.store) as work, Lock(f"{dirs.store}/locks/names"):
        image = store.stored(dirs, name)
        spelled = reference.canonical(name)
        if spelled in image.names:
            untagged: tuple[str, ...] = (spelled,)
        elif len(image.names) > 1:
            raise ImageError(f"image {name} has {len(image.names)} names: {', '.join(image.names)}", "remove them by name")
        else:
            untagged = image.names
        if len(image.names) > 1:
            os.unlink(f"{dirs.images}/names/{reference.filename(spelled)}")
            return Removed(untagged)
        others = {path for other in store.images(dirs) if other.id != image.id for path in other.layers}
        doomed = [path for path in image.layers if path not in others]
        if busy := in_use.intersection(doomed):
            raise ImageError(
                f"image {name} is in use by a container (layer {sorted(busy)[0]})",
                "remove the container first: `pybox ps -a`",
            )
        # The record goes first: from here on nobody finds the image, and what is left is debris.
        os.unlink(f"{dirs.images}/{image.id[7:]}.json")
        for spelled in untagged:
            os.unlink(f"{dirs.images}/names/{reference.filename(spelled)}")
        _unlink(f"{dirs.images}/{image.id[7:]}.config")
        gone = [key for key in map(_key, doomed) if _take_away(dirs, work, key)]
    return Removed(untagged, (image.id, *gone))


def sweep(dirs: Dirs, in_use: frozenset[str] = frozenset()) -> list[str]:
    """Remove what dead owners left: work directories, layers without an image, half-removed images, unheld locks.

    Returns the paths removed. Safe beside living loaders and removers.
    """
    if not os.path.isdir(f"{dirs.store}/locks"):
        return []
    swept = lock.sweep(dirs.store)
    with Workspace(dirs.store) as work:
        with Lock(f"{dirs.store}/locks/names"):
            swept += _sweep_names(dirs)
            kept = {_key(path) for image in store.images(dirs) for path in image.layers} | {_key(path) for path in in_use}
            for key in sorted(set(os.listdir(dirs.layers)) - kept):
                if _take_away(dirs, work, key):
                    swept.append(f"{dirs.layers}/{key}")
        for entry in sorted(os.listdir(f"{dirs.store}/locks")):
            path = f"{dirs.store}/locks/{entry}"
            if (fd := lock.take(path, wait=False)) is not None:
                lock.drop(path, fd)
    return swept


def _sweep_names(dirs: Dirs) -> list[str]:
    swept = []
    for name, key in store.names(dirs).items():
        if not os.path.exists(f"{dirs.images}/{key}.json"):
            swept.append(f"{dirs.images}/names/{reference.filename(name)}")
    for entry in os.listdir(dirs.images):
        if entry.endswith(".config") and not os.path.exists(f"{dirs.images}/{entry[:-7]}.json"):
            swept.append(f"{dirs.images}/{entry}")
    for path in swept:
        _unlink(path)
    return swept


def _take_away(dirs: Dirs, work: str, key: str) -> bool:
    """Move a layer into the workspace, which will be removed; not if a loader is about to use it."""
    path = f"{dirs.store}/locks/{key}"
    fd = lock.take(path, wait=False)
    if fd is None:
        return False
    try:
        os.rename(f"{dirs.layers}/{key}", f"{work}/{key}")
        return True
    except FileNotFoundError:
        return False
    finally:
        lock.drop(path, fd)


def _key(path: str) -> str:
    return path.removesuffix("/fs").rpartition("/")[2]


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
