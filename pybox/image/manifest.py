"""Manifests: from the descriptor of an image to its configuration and layers, wherever the documents come from.

An OCI layout and a registry say the same things in the same JSON; ``described`` follows it, and ``fetch`` gets each document,
checked against its digest and size. OCI image-spec manifest.md, image-index.md; docker's schema 2 differs in the names of types.
"""

from __future__ import annotations

import hashlib

from pybox.errors import ImageError
from pybox.image import config, store
from pybox.image.config import check_digest, obj, objects, text
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.fastjson import Json

    Document = dict[str, Json]
    Fetch = Callable[[Document], bytes]

INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")


class Blob(Record):
    """A layer's place, and what its manifest promises about it (docker-archive promises nothing)."""

    name: str
    digest: str = ""
    size: int = -1  # bytes
    kind: str = ""  # media type


class Found(Record):
    """An image that an archive or a registry describes."""

    config: config.Config
    layers: tuple[Blob, ...]  # as config.diff_ids
    names: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()  # of its index and its manifest


def described(descriptor: Document, fetch: Fetch, platform: str = "", depth: int = 0) -> Found | None:
    """Return the image behind a descriptor; None when it is for another system, or no image at all (an attestation).

    ``platform`` is ARCHITECTURE[/VARIANT] in GOARCH names, by default this machine's. Raises ImageError.
    """
    kind = text(descriptor, "mediaType")
    if kind in INDEXES:
        if depth > 3:
            raise ImageError("indexes within indexes within indexes")
        index = obj(config.load(fetch(descriptor), "an image index"), "an image index")
        entry = _for_platform(objects(index, "manifests"), platform or store.architecture())
        image = None if entry is None else described(entry, fetch, platform, depth + 1)
        return None if image is None else image.replace(digests=(text(descriptor, "digest"), *image.digests))
    if kind not in MANIFESTS:
        return None
    manifest = obj(config.load(fetch(descriptor), "an image manifest"), "an image manifest")
    settings = obj(manifest.get("config"), "config of the manifest")
    if text(settings, "mediaType") not in CONFIGS:
        return None
    parsed = config.parse(fetch(settings))
    layers = tuple(map(_layer, objects(manifest, "layers")))
    same_count(parsed, len(layers))
    return Found(parsed, layers, digests=(text(descriptor, "digest"),))


def _for_platform(descriptors: tuple[Document, ...], wanted: str) -> Document | None:
    machine, _, variant = wanted.partition("/")
    others = []
    for descriptor in descriptors:
        platform = obj(descriptor.get("platform") or {}, "platform")
        there, system = text(platform, "architecture"), text(platform, "os") or "linux"
        if there in ("", machine) and system == "linux" and variant in ("", text(platform, "variant")):
            return descriptor
        if there != "unknown":  # attestations call themselves unknown/unknown
            others.append("/".join(filter(None, (system, there, text(platform, "variant")))))
    if others:
        raise ImageError(f"an image for {', '.join(sorted(set(others)))}, not for linux/{wanted}")
    return None


def same_count(parsed: config.Config, layers: int) -> None:
    """Raise ImageError unless the manifest has as many layers as the configuration."""
    if len(parsed.diff_ids) != layers:
        raise ImageError(f"the manifest has {layers} layers, the configuration {len(parsed.diff_ids)}")


def _layer(descriptor: Document) -> Blob:
    kind = text(descriptor, "mediaType")
    if ".tar" not in kind or "encrypted" in kind:
        raise ImageError(f"a layer of type {kind!a:.80}, which is no tar")
    digest, size = address(descriptor)
    return Blob(f"blobs/sha256/{digest[7:]}", digest, size, kind)


def address(descriptor: Document) -> tuple[str, int]:
    """Return the digest and the size in bytes that a descriptor promises. Raises ImageError."""
    digest, size = check_digest(text(descriptor, "digest"), "digest"), descriptor.get("size")
    if not isinstance(size, int) or size < 0:
        raise ImageError(f"{digest}: its size is no number of bytes")
    return digest, size


def checked(data: bytes, descriptor: Document, where: str) -> bytes:
    """Return a document that is what its descriptor promises. Raises ImageError."""
    digest, size = address(descriptor)
    if len(data) != size or f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise ImageError(f"{where} does not match its digest and size", "it is damaged or forged")
    return data
