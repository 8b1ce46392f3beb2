"""The story of a pull: ask whether the tag has moved, follow its manifest, download what is missing, publish.

Layers are unpacked while they arrive, several at once; nothing is kept of a blob but its tree (and its digest, for `push`). A
pull that is killed, or told no, leaves a store in which the image is not there yet: see bringing.py and changes.py. The layers that
were there when it was killed stay, until the next pull needs them or `pybox gc` removes them.
"""

from __future__ import annotations

from pybox.dirs import Dirs
from pybox.errors import ImageError
from pybox.image import reference, store
from pybox.record import Record
from pybox.registry import address
from pybox.registry.client import Client, Document, Download
from pybox.registry.wire import Manner, Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from pybox.image.manifest import Blob, Found
    from pybox.image.store import StoredImage
    from pybox.registry.address import Address

    class Watch(Protocol):
        """Who is told how far it is; called from several threads."""

        def begin(self, digest: str, size: int) -> None:
            """A blob of ``size`` bytes is about to move."""

        def moved(self, digest: str, count: int) -> None:
            """So many more bytes of it have."""

        def done(self, digest: str, how: str) -> None:
            """It is there, and this is how: "" for the usual way."""


# Layers, as docker; more threads only wait for each other where the network is fast. A forked process for each, measured beside
# this, took the same CPU and no less time that could be told from noise: making files and inflating happen without the GIL.
AT_ONCE = 3


class Pulled(Record):
    """What a pull brought."""

    id: str  # "sha256:<hex>" of the configuration
    digest: str  # of the manifest or index that the tag led to
    fresh: bool  # whether anything was downloaded


class Nobody:
    """Who does not want to know."""

    def begin(self, digest: str, size: int) -> None:
        """Ignore."""

    def moved(self, digest: str, count: int) -> None:
        """Ignore."""

    def done(self, digest: str, how: str) -> None:
        """Ignore."""


def pull(dirs: Dirs, name: str, manner: Manner | None = None, watch: Watch | None = None, *, platform: str = "") -> Pulled:
    """Bring an image from its registry, or from a mirror; what is up to date costs one request.

    ``platform`` is ARCHITECTURE[/VARIANT]. Raises ImageError; the store is then as it was.
    """
    where = address.parse(name)
    manner = manner or Manner()
    failed: list[ImageError] = []
    for endpoint in address.endpoints(where, not manner.tls_verify):
        wire = Wire(manner)
        try:
            return _from(dirs, name, where, Client(wire, endpoint), watch or Nobody(), platform)
        except ImageError as error:  # the next server may have it
            failed.append(error)
        except OSError as error:
            raise ImageError(f"pulling {name}: {error.strerror or error}") from None
        finally:
            wire.stop()
    failed[-1].reworded("; ".join(error.message for error in failed))
    raise failed[-1]


def _from(dirs: Dirs, name: str, where: Address, client: Client, watch: Watch, platform: str) -> Pulled:
    there = _stored(dirs, name)
    # The index's digest is the same for all platforms, so it can't say that the right one is here.
    if there is not None and not platform and (digest := where.digest or client.head(where.tag)) in there.digests:
        return Pulled(there.id, digest, fresh=False)
    from pybox.image import changes  # from here on, time is no longer counted in milliseconds

    top = client.manifest(where.target)
    found = _described(client, top, platform)
    names = () if where.digest else (changes.tag_name(name),)
    found = found.replace(names=names)
    return Pulled(found.config.id, top.digest, fresh=_bring_in(dirs, client, found, watch))


def _stored(dirs: Dirs, name: str) -> StoredImage | None:
    try:
        image = store.stored(dirs, name)
    except ImageError:  # absent, or damaged: then it is brought in anew
        return None
    spelled = reference.canonical(name)
    return image if "@" in name or spelled in image.names else None  # an id that looks like a name is none


def _described(client: Client, top: Document, platform: str) -> Found:
    from pybox.image import manifest

    if top.kind not in (*manifest.INDEXES, *manifest.MANIFESTS):
        old = "manifest.v1+" in top.kind
        raise ImageError(
            f"{client}: a manifest of type {top.kind!a:.100}, " + ("docker's schema 1" if old else "which is no image"),
            "push it again with any tool made since 2016" if old else None,
        )

    def fetch(descriptor: manifest.Document) -> bytes:
        digest, size = manifest.address(descriptor)
        if digest == top.digest:
            return top.data
        if size > 8 << 20:
            raise ImageError(f"{client}: {digest}: {size} bytes of JSON are too many")
        is_manifest = descriptor.get("mediaType") in (*manifest.INDEXES, *manifest.MANIFESTS)
        data = client.manifest(digest).data if is_manifest else client.small_blob(digest)
        return manifest.checked(data, descriptor, f"{client}: {digest}")

    found = manifest.described({"mediaType": top.kind, "digest": top.digest, "size": len(top.data)}, fetch, platform)
    if found is None:
        raise ImageError(f"{client}: no image for linux, but something else (a chart, an attestation or the like)")
    return found


def _bring_in(dirs: Dirs, client: Client, found: Found, watch: Watch) -> bool:
    from pybox.image import bringing, changes, lock
    from pybox.image.lock import Workspace

    changes.prepare(dirs)
    lock.sweep(dirs.store)
    fresh: list[str] = []
    with Workspace(dirs.store) as work:

        def unpack_all(missing: dict[str, Blob], placed: Callable[[str], None]) -> None:
            fresh.extend(missing)
            _download(client, missing, work, watch, placed)

        for diff_id, blob in zip(found.config.diff_ids, found.layers, strict=True):
            if changes.present(dirs, diff_id):
                watch.done(blob.digest, "already here")
        bringing.bring_in(dirs, (found,), work, unpack_all)
    return bool(fresh)


def _download(client: Client, missing: dict[str, Blob], work: str, watch: Watch, placed: Callable[[str], None]) -> None:
    """Download and unpack several layers at a time, the largest first; ``placed`` is told of each. The first failure ends them all."""
    from threading import Lock, Thread

    from pybox.image import blobs, bringing

    todo = sorted(missing.items(), key=lambda item: item[1].size)
    lock = Lock()
    failures: list[BaseException] = []

    def one(diff_id: str, blob: Blob) -> None:
        watch.begin(blob.digest, blob.size)
        try:
            source = Download(client, blob.digest, blob.size, lambda count: watch.moved(blob.digest, count))
            bringing.unpack(source, blob.size, blob, diff_id, work)
            blobs.note(f"{work}/{store.layer_key(diff_id)}", blob)
        except ImageError as error:
            error.reworded(f"{client}: layer {blob.digest[7:19]}: {_short(client, error.message)}")
            raise
        placed(diff_id)
        watch.done(blob.digest, "")

    def worker() -> None:
        try:
            while True:
                with lock:
                    if not todo or failures:
                        return
                    item = todo.pop()
                one(*item)
        except BaseException as error:
            with lock:
                failures.append(error)
            client.wire.stop()

    threads = [Thread(target=worker) for _ in range(min(AT_ONCE, len(todo)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:  # also when interrupted: their directory is about to be removed
        if any(thread.is_alive() for thread in threads):
            client.wire.stop()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
    if failures:
        raise failures[0]


def _short(client: Client, message: str) -> str:
    return message.removeprefix(f"{client}: ")
