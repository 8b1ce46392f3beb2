"""Loading images: docker-archive (what `docker save` writes) and OCI layout, as a directory or a tar, gzip or zstd around it.

Nothing in an archive is believed: every blob is checked against its digest and size, every layer against its diffID, and only
when all images of the archive are unpacked and verified does the first of them become visible. OCI image-spec
image-layout.md, image-index.md, manifest.md; docker's image spec v1.2 for manifest.json.
"""

from __future__ import annotations

import hashlib
import os

from pybox.dirs import Dirs
from pybox.errors import ImageError
from pybox.image import changes, config, layer, store
from pybox.image.changes import Locks, NewImage
from pybox.image.config import JSON_MAX, obj, objects, strings, text
from pybox.image.lock import Workspace
from pybox.image.shelf import open_shelf
from pybox.image.stream import Metered, close, decompressed
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json
    from pybox.image.shelf import Shelf

    Document = dict[str, Json]

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")


class Loaded(Record):
    """An image that `load` has put into the store."""

    id: str  # "sha256:<hex>"
    names: tuple[str, ...]  # canonical


class _Blob(Record):
    """A layer's place in the archive, and what the archive promises about it (docker-archive promises nothing)."""

    name: str
    digest: str = ""
    size: int = -1  # bytes


class _Found(Record):
    """An image described by an archive."""

    config: config.Config
    layers: tuple[_Blob, ...]  # as config.diff_ids
    names: tuple[str, ...]
    digests: tuple[str, ...] = ()


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
                return _bring_in(dirs, shelf, found, work)
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


def _bring_in(dirs: Dirs, shelf: Shelf, found: list[_Found], work: str) -> list[Loaded]:
    blobs = {diff_id: blob for image in found for diff_id, blob in zip(image.config.diff_ids, image.layers, strict=True)}
    with Locks(dirs, map(store.layer_key, blobs)):
        missing = [diff_id for diff_id in blobs if not changes.present(dirs, diff_id)]
        for diff_id in missing:
            try:
                _unpack(shelf, blobs[diff_id], diff_id, f"{work}/{store.layer_key(diff_id)}")
            except ImageError as error:
                raise ImageError(f"layer {diff_id[7:19]}: {error.message}", error.hint) from None
        for diff_id in missing:
            changes.place(dirs, store.layer_key(diff_id), f"{work}/{store.layer_key(diff_id)}")
        changes.publish(dirs, work, [NewImage(image.config, image.names, image.digests) for image in found])
    return [Loaded(image.config.id, image.names) for image in found]


def _unpack(shelf: Shelf, blob: _Blob, diff_id: str, folder: str) -> None:
    source, size = shelf.open(blob.name)
    try:
        if blob.size not in (-1, size):
            raise ImageError(f"its blob has {size} bytes, not {blob.size} as its manifest says")
        raw = Metered(source)
        plain = decompressed(raw)
        try:
            layer.unpack(plain, folder, diff_id)
            raw.drain()
        finally:
            close(plain)
    except EOFError as error:
        raise ImageError(f"damaged: {error}") from None
    finally:
        close(source)
    if blob.digest not in ("", raw.digest()):
        raise ImageError(f"its blob is {raw.digest()}, not {blob.digest} as its manifest says")


def _base_name(source: str) -> str:
    """Return the name that image tools give to a layout whose references are tags only: that of its directory or file."""
    base = os.path.basename(os.path.abspath(source)) if source != "-" else ""
    for ending in (".gz", ".tgz", ".zst", ".tar", ".oci"):
        base = base.removesuffix(ending)
    return base


def _images(shelf: Shelf, base: str) -> list[_Found]:
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


def _docker_images(shelf: Shelf) -> list[_Found]:
    manifest = config.load(_read(shelf, "manifest.json"), "manifest.json")
    found = []
    for item in objects({"manifest.json": manifest}, "manifest.json"):
        name = text(item, "Config")
        parsed = config.parse(_read(shelf, name))
        stem = name.rpartition("/")[2].removesuffix(".json")
        if len(stem) == 64 and f"sha256:{stem}" != parsed.id:
            raise ImageError(f"the configuration is {parsed.id}, not {stem} as its name says", "the archive is damaged or forged")
        layers = tuple(_Blob(layer) for layer in strings(item, "Layers"))
        _same_count(parsed, len(layers))
        names = tuple(map(changes.tag_name, strings(item, "RepoTags")))
        found.append(_Found(parsed, layers, names))
    return found


def _same_count(parsed: config.Config, layers: int) -> None:
    if len(parsed.diff_ids) != layers:
        raise ImageError(f"the manifest has {layers} layers, the configuration {len(parsed.diff_ids)}")


# OCI layout


def _oci_images(shelf: Shelf, base: str) -> list[_Found]:
    index = obj(config.load(_read(shelf, "index.json"), "index.json"), "index.json")
    found: dict[str, _Found] = {}
    for descriptor in objects(index, "manifests"):
        image = _oci_image(shelf, descriptor, 0)
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


def _oci_image(shelf: Shelf, descriptor: Document, depth: int) -> _Found | None:
    """Return the image behind a descriptor; None when it is for another system, or no image at all (an attestation)."""
    kind = text(descriptor, "mediaType")
    if kind in _INDEXES:
        if depth > 3:
            raise ImageError("indexes within indexes within indexes")
        index = obj(config.load(_blob(shelf, descriptor), "an image index"), "an image index")
        entry = _for_this_machine(objects(index, "manifests"))
        image = None if entry is None else _oci_image(shelf, entry, depth + 1)
        return None if image is None else image.replace(digests=(text(descriptor, "digest"), *image.digests))
    if kind not in _MANIFESTS:
        return None
    manifest = obj(config.load(_blob(shelf, descriptor), "an image manifest"), "an image manifest")
    settings = obj(manifest.get("config"), "config of the manifest")
    if text(settings, "mediaType") not in _CONFIGS:
        return None
    parsed = config.parse(_blob(shelf, settings))
    layers = tuple(map(_layer, objects(manifest, "layers")))
    _same_count(parsed, len(layers))
    return _Found(parsed, layers, (), (text(descriptor, "digest"),))


def _for_this_machine(descriptors: tuple[Document, ...]) -> Document | None:
    others = []
    for descriptor in descriptors:
        platform = obj(descriptor.get("platform") or {}, "platform")
        machine, system = text(platform, "architecture"), text(platform, "os") or "linux"
        if machine in ("", store.architecture()) and system == "linux":
            return descriptor
        if machine != "unknown":  # attestations call themselves unknown/unknown
            others.append(f"{system}/{machine}")
    if others:
        raise ImageError(f"an image for {', '.join(sorted(set(others)))}, not for linux/{store.architecture()}")
    return None


def _layer(descriptor: Document) -> _Blob:
    kind = text(descriptor, "mediaType")
    if ".tar" not in kind or "encrypted" in kind:
        raise ImageError(f"a layer of type {kind!a:.80}, which is no tar")
    return _Blob(*_address(descriptor))


def _address(descriptor: Document) -> tuple[str, str, int]:
    digest, size = config.check_digest(text(descriptor, "digest"), "digest"), descriptor.get("size")
    if not isinstance(size, int) or size < 0:
        raise ImageError(f"{digest}: its size is no number of bytes")
    return f"blobs/sha256/{digest[7:]}", digest, size


def _blob(shelf: Shelf, descriptor: Document) -> bytes:
    name, digest, size = _address(descriptor)
    blob = _read(shelf, name)
    if len(blob) != size or f"sha256:{hashlib.sha256(blob).hexdigest()}" != digest:
        raise ImageError(f"{name} does not match its digest and size", "the archive is damaged or forged")
    return blob


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
