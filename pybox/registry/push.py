"""The story of a push: what the registry has already is not sent again, the manifest comes last and makes it visible.

A layer whose blob is remembered (blobs.py) and still there costs one request. Another is compressed into the workspace, which
gives its digest, and uploaded; the same layer is compressed to the same bytes every time. OCI distribution-spec, "Push".
"""

from __future__ import annotations

import hashlib
import json

from pybox.dirs import Dirs
from pybox.errors import ImageError
from pybox.image import blobs, changes, config, export, store
from pybox.image.changes import Locks, NewImage
from pybox.image.lock import Workspace
from pybox.image.manifest import Blob
from pybox.image.stream import compressed
from pybox.record import Record
from pybox.registry import address
from pybox.registry.client import Client
from pybox.registry.pull import Nobody
from pybox.registry.wire import Manner, Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json
    from pybox.image.store import StoredImage
    from pybox.registry.pull import Watch

FORMATS = ("oci", "docker")
COMPRESSIONS = ("gzip", "zstd", "none")
_TYPES = {
    "oci": ("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json"),
    "docker": (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.container.image.v1+json",
    ),
}


class Shape(Record):
    """How an image is to be written."""

    format: str = "oci"
    compression: str = ""  # "" takes a blob that is there, whatever it is, and else gzip


def push(
    dirs: Dirs, name: str, target: str = "", manner: Manner | None = None, watch: Watch | None = None, shape: Shape | None = None
) -> str:
    """Upload an image under its own name or another; returns the digest of its manifest. Raises ImageNotFound, ImageError."""
    shape = shape or Shape()
    if shape.format not in FORMATS or shape.compression not in ("", *COMPRESSIONS):
        raise ImageError(f"{shape.format}, {shape.compression}: not a format to push")
    if shape.format == "docker" and shape.compression == "zstd":
        raise ImageError("docker's manifest has no zstd layers", "--format oci")
    image = store.stored(dirs, name)
    where = address.parse(target or name)
    if where.digest:
        raise ImageError(f"image name {target or name}: a digest is computed, it can't be given", "push it to a tag")
    manner = manner or Manner()
    wire = Wire(manner)
    changes.prepare(dirs)
    try:
        (endpoint,) = address.endpoints(where, not manner.tls_verify, writing=True)
        client = Client(wire, endpoint)
        with Workspace(dirs.store) as work, Locks(dirs, shared=map(store.layer_key, image.diff_ids)):
            digest = _Push(dirs, client, work, watch or Nobody(), shape).image(image, where.tag)
            parsed = config.parse(store.config_blob(dirs, image.id))
            changes.publish(dirs, work, (NewImage(parsed, (), (digest,)),))
        return digest
    except OSError as error:
        raise ImageError(f"pushing {name}: {error.strerror or error}") from None
    finally:
        wire.stop()


class _Push:
    """One image on its way."""

    def __init__(self, dirs: Dirs, client: Client, work: str, watch: Watch, shape: Shape) -> None:
        self._dirs, self._client, self._work, self._watch, self._shape = dirs, client, work, watch, shape

    def image(self, image: StoredImage, tag: str) -> str:
        layers = [self._layer(diff_id) for diff_id in image.diff_ids]
        blob = store.config_blob(self._dirs, image.id)
        self._small(image.id, blob)
        kind, config_kind = _TYPES[self._shape.format]
        manifest: dict[str, Json] = {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": {"mediaType": config_kind, "digest": image.id, "size": len(blob)},
            "layers": [{"mediaType": self._kind(layer), "digest": layer.digest, "size": layer.size} for layer in layers],
        }
        data = json.dumps(manifest, separators=(",", ":")).encode()
        self._client.put_manifest(tag, kind, data)
        return f"sha256:{hashlib.sha256(data).hexdigest()}"

    def _kind(self, blob: Blob) -> str:
        how = _compression(blob.kind)
        if self._shape.format == "docker":
            return "application/vnd.docker.image.rootfs.diff.tar" + (".gzip" if how == "gzip" else "")
        return "application/vnd.oci.image.layer.v1.tar" + ("" if how == "none" else f"+{how}")

    def _layer(self, diff_id: str) -> Blob:
        folder = f"{self._dirs.layers}/{store.layer_key(diff_id)}"
        for blob in blobs.known_of(folder):
            fits = self._shape.compression in ("", _compression(blob.kind))
            if (
                fits
                and not (self._shape.format == "docker" and _compression(blob.kind) == "zstd")
                and self._client.has_blob(blob.digest)
            ):
                self._watch.done(blob.digest, "already there")
                return blob
        return self._upload(diff_id, folder)

    def _upload(self, diff_id: str, folder: str) -> Blob:
        how = self._shape.compression or "gzip"
        tar = export.layer_tar(self._dirs, diff_id)
        digest, size, path = hashlib.sha256(), 0, f"{self._work}/blob"
        with open(path, "wb") as file:
            for data in tar if how == "none" else compressed(how, tar):
                digest.update(data)
                size += file.write(data)
        blob = Blob("", f"sha256:{digest.hexdigest()}", size, f"tar+{how}")
        if self._client.has_blob(blob.digest):
            self._watch.done(blob.digest, "already there")
        else:
            self._watch.begin(blob.digest, size)
            self._client.upload(blob.digest, lambda: _Told(path, self._watch, blob.digest))
            self._watch.done(blob.digest, "")
        blobs.note(folder, blob)
        return blob

    def _small(self, digest: str, data: bytes) -> None:
        if not self._client.has_blob(digest):
            self._client.upload(digest, data)


class _Told:
    """A file that tells how much of it has been read."""

    def __init__(self, path: str, watch: Watch, digest: str) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._watch, self._digest = watch, digest

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._watch.moved(self._digest, len(data))
        return data

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


def _compression(kind: str) -> str:
    """Return how a layer of a media type is compressed."""
    return next((how for how in ("gzip", "zstd") if kind.endswith((f"+{how}", f".{how}"))), "none")
