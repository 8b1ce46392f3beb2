"""Loading images: docker-archive (what `docker save` writes) and OCI layout, as a directory or a tar, gzip or zstd around it.

Nothing in an archive is believed: every blob is checked against its digest and size, every layer against its diffID, and only
when all images of the archive are unpacked and verified does the first of them become visible. OCI image-spec
image-layout.md, image-index.md, manifest.md; docker's image spec v1.2 for manifest.json.
"""

from __future__ import annotations

import os

from pybox.dirs import Dirs
from pybox.errors import ImageError
from pybox.image import bringing, changes, config, manifest
from pybox.image.config import JSON_MAX, obj, objects, strings, text
from pybox.image.lock import Workspace
from pybox.image.manifest import Blob, Found, described, same_count
from pybox.image.shelf import open_shelf
from pybox.image.stream import close
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.fastjson import Json
    from pybox.image.shelf import Shelf

    Document = dict[str, Json]

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"


class Loaded(Record):
    """An image that `load` has put into the store."""

    id: str  # "sha256:<hex>"
    names: tuple[str, ...]  # canonical


def load(dirs: Dirs, source: str, name: str | None = None) -> list[Loaded]:
    """Load all images of an archive: a directory, a file, or "-" for standard input.

    ``name`` is given to the image instead of the names in the archive, which must hold one image only. Raises ImageError; the
    store is then as it was.
    """
    wanted = None if name is None else changes.tag_name(name)
    changes.prepare(dirs)
    try:
        with Workspace(dirs.store) as work:
            shelf = _open(source, work)
            try:
                found = _images(shelf, _base_name(source))
                if wanted is not None:
                    if len(found) != 1:
                        raise ImageError(f"{source} holds {len(found)} images, so one name is not enough")
                    found = [found[0].replace(names=(wanted,))]
                bringing.bring_in(dirs, found, work, lambda missing, placed: _unpack_all(shelf, missing, work, placed))
                return [Loaded(image.config.id, image.names) for image in found]
            finally:
                shelf.close()
    except OSError as error:
        raise ImageError(f"loading {source}: {error.strerror or error}") from None


def _open(source: str, work: str) -> Shelf:
    try:
        return open_shelf(source, work)
    except ImageError as error:
        if error.message.startswith((source, ascii(source))):
            raise
        raise ImageError(f"{source}: {error.message}", error.hint) from None


def _unpack_all(shelf: Shelf, missing: dict[str, Blob], work: str, placed: Callable[[str], None]) -> None:
    for diff_id, blob in missing.items():
        try:
            source, size = shelf.open(blob.name)
            bringing.unpack(source, size, blob, diff_id, work)
            placed(diff_id)
        except ImageError as error:
            raise ImageError(f"layer {diff_id[7:19]}: {error.message}", error.hint) from None


def _base_name(source: str) -> str:
    """Return the name that image tools give to a layout whose references are tags only: that of its directory or file."""
    base = os.path.basename(os.path.abspath(source)) if source != "-" else ""
    for ending in (".gz", ".tgz", ".zst", ".tar", ".oci"):
        base = base.removesuffix(ending)
    return base


def _images(shelf: Shelf, base: str) -> list[Found]:
    if shelf.has("manifest.json"):  # docker writes both since 25; its own has whole names
        found = _docker_images(shelf)
    elif shelf.has("index.json"):
        found = _oci_images(shelf, base)
    else:
        raise ImageError(
            "neither manifest.json nor index.json: not an image archive",
            "a root file system is brought in by `pybox import NAME TAR|DIR`",
        )
    if not found:
        raise ImageError("the archive holds no image for linux")
    return found


# docker-archive


def _docker_images(shelf: Shelf) -> list[Found]:
    document = config.load(_read(shelf, "manifest.json"), "manifest.json")
    found = []
    for item in objects({"manifest.json": document}, "manifest.json"):
        name = text(item, "Config")
        parsed = config.parse(_read(shelf, name))
        stem = name.rpartition("/")[2].removesuffix(".json")
        if len(stem) == 64 and f"sha256:{stem}" != parsed.id:
            raise ImageError(f"the configuration is {parsed.id}, not {stem} as its name says", "the archive is damaged or forged")
        layers = tuple(Blob(path) for path in strings(item, "Layers"))
        same_count(parsed, len(layers))
        names = tuple(map(changes.tag_name, strings(item, "RepoTags")))
        found.append(Found(parsed, layers, names))
    return found


# OCI layout


def _oci_images(shelf: Shelf, base: str) -> list[Found]:
    index = obj(config.load(_read(shelf, "index.json"), "index.json"), "index.json")
    found: dict[str, Found] = {}
    for descriptor in objects(index, "manifests"):
        image = described(descriptor, lambda item: _blob(shelf, item))
        if image is None:
            continue
        names = _oci_names(descriptor, base)
        known = found.get(image.config.id)
        if known is not None:  # one entry for each of its names
            names = tuple(dict.fromkeys((*known.names, *names)))
        found[image.config.id] = image.replace(names=names)
    return list(found.values())


def _oci_names(descriptor: Document, base: str) -> tuple[str, ...]:
    notes = obj(descriptor.get("annotations") or {}, "annotations")
    short = text(notes, REF_NAME)
    if full := text(notes, CONTAINERD_NAME):
        name = changes.tag_name(full)
        repository, _, tag = name.rpartition(":")
        # umoci copies the annotations of the image it edits: a new reference then stands beside an old name.
        stale = short not in ("", tag) and "/" not in short and ":" not in short
        return (changes.tag_name(f"{repository}:{short}") if stale else name,)
    if not short:
        return ()
    if "/" in short or ":" in short:
        return (changes.tag_name(short),)
    try:
        return (changes.tag_name(f"{base}:{short}"),)
    except ImageError:  # a directory may be called anything
        return ()


def _blob(shelf: Shelf, descriptor: Document) -> bytes:
    name = f"blobs/sha256/{manifest.address(descriptor)[0][7:]}"
    return manifest.checked(_read(shelf, name), descriptor, name)


def _read(shelf: Shelf, name: str) -> bytes:
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise ImageError(f"{name[:100]!a}: not a name within the archive")
    source, size = shelf.open(name)
    try:
        if size > JSON_MAX:
            raise ImageError(f"{name}: {size} bytes of JSON are too many")
        blob = b""
        while len(blob) < size and (data := source.read(size - len(blob))):
            blob += data
        return blob
    except EOFError as error:
        raise ImageError(f"{name}: {error}") from None
    finally:
        close(source)
