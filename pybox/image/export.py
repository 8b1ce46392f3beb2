"""Saving images: docker-archive and OCI layout, the same bytes every time, and for each layer the bytes that once came in.

A layer's tar is joined from its split and its tree (split.py) and checked against its diffID while it is written: a damaged
store is found here, not by whoever loads the archive. Output appears under its name only when complete.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import nullcontext

from pybox.dirs import Dirs
from pybox.errors import ImageError
from pybox.image import changes, config, layerfile, pack, reference, split, store
from pybox.image.archive import CONTAINERD_NAME, REF_NAME
from pybox.image.lock import Workspace, remove_tree
from pybox.image.stream import CHUNK, compressed
from pybox.record import Record
from pybox.whole import replacing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import BinaryIO, Protocol

    from pybox.fastjson import Json
    from pybox.image.store import StoredImage

    class Sink(Protocol):
        """What takes the files of an archive."""

        def add(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
            """Write a file of ``size`` bytes."""

        def finish(self) -> None:
            """Write the end."""


FORMATS = ("docker-archive", "oci", "oci-archive", "oci-dir")
COMPRESSIONS = ("none", "gzip", "zstd")
_ENDINGS = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}


class _Blob(Record):
    """A blob of an OCI layout that has been written."""

    digest: str
    size: int  # bytes


class _Job(Record):
    """An image to save, with the names under which it goes."""

    image: StoredImage
    names: tuple[str, ...]


def save(dirs: Dirs, names: Sequence[str], out: str, *, format: str = "docker-archive", compression: str = "none") -> None:
    """Write images to ``out``: a file, a directory (oci-dir; "oci" if it ends in / or is one), or "-" for standard output.

    ``compression`` is for the layers of an OCI layout. Raises ImageNotFound, ImageError; then nothing is left at ``out``.
    """
    if format not in FORMATS:
        raise ImageError(f"unknown format {format}", f"one of {', '.join(FORMATS)}")
    if compression not in COMPRESSIONS or (compression != "none" and format == "docker-archive"):
        raise ImageError(f"compression {compression} is not for {format}", f"for oci: {', '.join(COMPRESSIONS)}")
    jobs = _jobs(dirs, names)
    to_folder = format == "oci-dir" or (format == "oci" and (out.endswith("/") or os.path.isdir(out)))
    changes.prepare(dirs)
    try:
        with Workspace(dirs.store) as work:
            if to_folder:
                _into_folder(dirs, jobs, out, compression, work)
            else:
                _into_file(dirs, jobs, out, format, compression, work)
    except OSError as error:
        raise ImageError(f"saving to {out}: {error.strerror or error}") from None


def _jobs(dirs: Dirs, names: Sequence[str]) -> list[_Job]:
    jobs: dict[str, _Job] = {}
    for name in names:
        image = store.stored(dirs, name)
        spelled = tuple(known for known in image.names if known == reference.canonical(name))
        before = jobs[image.id].names if image.id in jobs else ()
        jobs[image.id] = _Job(image, tuple(dict.fromkeys((*before, *spelled))))
    if not jobs:
        raise ImageError("no image to save")
    return list(jobs.values())


def _into_folder(dirs: Dirs, jobs: list[_Job], out: str, compression: str, work: str) -> None:
    out = out.rstrip("/") or "/"
    if os.path.isdir(out) and os.listdir(out):
        raise ImageError(f"{out}: not empty", "an OCI layout goes to a new directory")
    part = f"{out}.part-{os.getpid()}"
    try:
        _write_oci(dirs, jobs, _Folder(part), compression, work)
        os.rename(part, out)
    except BaseException:
        remove_tree(os.path.abspath(part))
        raise


def _into_file(dirs: Dirs, jobs: list[_Job], out: str, format: str, compression: str, work: str) -> None:
    if out == "-" and os.isatty(1):
        raise ImageError("standard output is a terminal", "pybox save NAME > FILE, or -o FILE")
    with nullcontext(1) if out == "-" else replacing(out) as fd, open(fd, "wb", closefd=False) as file:
        sink = _TarFile(file)
        if format == "docker-archive":
            _write_docker(dirs, jobs, sink)
        else:
            _write_oci(dirs, jobs, sink, compression, work)


def _write_docker(dirs: Dirs, jobs: list[_Job], sink: Sink) -> None:
    manifest: list[Json] = []
    written: set[str] = set()
    for job in jobs:
        blob = store.config_blob(dirs, job.image.id)
        layers = [f"{diff_id[7:]}.tar" for diff_id in config.parse(blob).diff_ids]
        manifest.append({"Config": f"{job.image.id[7:]}.json", "RepoTags": list(job.names), "Layers": list(layers)})
        sink.add(f"{job.image.id[7:]}.json", len(blob), (blob,))
        for diff_id in config.parse(blob).diff_ids:
            if diff_id not in written:
                written.add(diff_id)
                sink.add(f"{diff_id[7:]}.tar", _record(dirs, diff_id).tar_size, layer_tar(dirs, diff_id))
    _add_json(sink, "manifest.json", manifest)
    sink.finish()


def _write_oci(dirs: Dirs, jobs: list[_Job], sink: Sink, compression: str, work: str) -> None:
    _add_json(sink, "oci-layout", {"imageLayoutVersion": "1.0.0"})
    layers: dict[str, _Blob] = {}
    entries: list[Json] = []
    tags = [name.rpartition(":")[2] for job in jobs for name in job.names]
    for job in jobs:
        blob = store.config_blob(dirs, job.image.id)
        parsed = config.parse(blob)
        for diff_id in parsed.diff_ids:
            if diff_id not in layers:
                layers[diff_id] = _add_layer(dirs, sink, diff_id, compression, work)
        sink.add(f"blobs/sha256/{parsed.id[7:]}", len(blob), (blob,))
        kind = "application/vnd.oci.image.layer.v1.tar" + _ENDINGS[compression]
        manifest: dict[str, Json] = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", _Blob(parsed.id, len(blob))),
            "layers": [_descriptor(kind, layers[diff_id]) for diff_id in parsed.diff_ids],
        }
        entries += _index_entries(job, _add_json(sink, "", manifest), parsed.architecture, tags)
    index: dict[str, Json] = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    _add_json(sink, "index.json", index)
    sink.finish()


def _index_entries(job: _Job, manifest: _Blob, architecture: str, tags: list[str]) -> Iterator[Json]:
    """Yield one index entry for each name; where a tag does not tell two images apart the reference is the whole name."""
    entry = _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
    entry["platform"] = {"architecture": architecture, "os": "linux"}
    if not job.names:
        yield entry
    for name in job.names:
        tag = name.rpartition(":")[2]
        yield {**entry, "annotations": {CONTAINERD_NAME: _full(name), REF_NAME: tag if tags.count(tag) == 1 else name}}


def _full(name: str) -> str:
    """Return a name with its registry, as containerd wants it."""
    registry, path = reference.domain(name)
    if registry:
        return name
    return f"docker.io/{path}" if "/" in path else f"docker.io/library/{path}"


def _descriptor(kind: str, blob: _Blob) -> dict[str, Json]:
    return {"mediaType": kind, "digest": blob.digest, "size": blob.size}


def _add_json(sink: Sink, name: str, document: Json) -> _Blob:
    """Add a document under a name, or as a blob when it has none."""
    data = json.dumps(document, separators=(",", ":")).encode()
    digest = hashlib.sha256(data).hexdigest()
    sink.add(name or f"blobs/sha256/{digest}", len(data), (data,))
    return _Blob(f"sha256:{digest}", len(data))


def _add_layer(dirs: Dirs, sink: Sink, diff_id: str, compression: str, work: str) -> _Blob:
    if compression == "none":
        blob = _Blob(diff_id, _record(dirs, diff_id).tar_size)
        sink.add(f"blobs/sha256/{diff_id[7:]}", blob.size, layer_tar(dirs, diff_id))
        return blob
    digest, size = hashlib.sha256(), 0
    with open(f"{work}/blob", "w+b") as file:  # its name is its digest, known only at the end
        for data in compressed(compression, layer_tar(dirs, diff_id)):
            digest.update(data)
            size += file.write(data)
        file.seek(0)
        sink.add(f"blobs/sha256/{digest.hexdigest()}", size, iter(lambda: file.read(CHUNK), b""))
    return _Blob(f"sha256:{digest.hexdigest()}", size)


def _record(dirs: Dirs, diff_id: str) -> layerfile.Layer:
    return layerfile.read(f"{dirs.layers}/{store.layer_key(diff_id)}")


def layer_tar(dirs: Dirs, diff_id: str) -> Iterator[bytes]:
    """Yield the uncompressed tar of a layer of the store. Raises ImageError at the end when it is not the one that came in."""
    folder = f"{dirs.layers}/{store.layer_key(diff_id)}"
    moved = [(before, path.encode("utf-8", "surrogateescape"), number) for before, path, number in layerfile.read(folder).moved]
    digest = hashlib.sha256()
    for data in split.joined(folder, moved):
        digest.update(data)
        yield data
    if f"sha256:{digest.hexdigest()}" != diff_id:
        raise ImageError(
            f"layer {diff_id[7:19]} was changed in the store", "remove its images and load them again; `pybox images` lists them"
        )


class _TarFile:
    """A tar with plain headers, the same for the same content."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def add(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
        self._file.write(pack.header(name, size))
        _copy(self._file, name, size, chunks)
        self._file.write(pack.padding(size))

    def finish(self) -> None:
        self._file.write(pack.END)


class _Folder:
    """A directory; the same blob twice is written once."""

    def __init__(self, path: str) -> None:
        self._path = path
        os.makedirs(f"{path}/blobs/sha256")

    def add(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
        with open(f"{self._path}/{name}", "wb") as file:
            _copy(file, name, size, chunks)

    def finish(self) -> None:
        """Nothing follows the files of a directory."""


def _copy(file: BinaryIO, name: str, size: int, chunks: Iterable[bytes]) -> None:
    for data in chunks:
        size -= file.write(data)
    if size:
        raise ImageError(f"{name}: {abs(size)} bytes too {'few' if size > 0 else 'many'}: the layer was changed in the store")
