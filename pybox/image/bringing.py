"""Bringing described images into the store, wherever their blobs come from: all of them, verified, or nothing.

Nothing that an archive or a registry says is believed: each blob is checked against its digest and size, each layer against its
diffID, and only when all layers of all images are unpacked and verified does the first image become visible.
"""

from __future__ import annotations

import os

from pybox.dirs import Dirs
from pybox.errors import ImageError
from pybox.image import changes, layer, layerfile, store
from pybox.image.changes import Locks, NewImage
from pybox.image.manifest import Blob, Found
from pybox.image.stream import Metered, close, decompressed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    UnpackAll = Callable[[dict[str, Blob], Callable[[str], None]], None]
    from pybox.image.stream import Source


def bring_in(dirs: Dirs, found: Iterable[Found], work: str, unpack_all: UnpackAll) -> None:
    """Put images into the store. ``unpack_all`` gets {diffID: blob} of the layers that are missing, unpacks them into ``work``, and
    says of each that it is complete: from then on a killed pybox has not worked in vain.

    It is called with the locks of all layers held: of two processes that want the same image one brings it in, and the other
    finds it there. Raises what ``unpack_all`` raises. The store is then as it was; only where a network or a person interrupted,
    what was complete stays for the next try.
    """
    found = list(found)
    blobs = {diff_id: blob for image in found for diff_id, blob in zip(image.config.diff_ids, image.layers, strict=True)}
    while True:
        there = [diff_id for diff_id in blobs if changes.present(dirs, diff_id)]
        missing = {diff_id: blob for diff_id, blob in blobs.items() if diff_id not in there}
        with Locks(dirs, map(store.layer_key, missing), shared=map(store.layer_key, there)):
            if all(changes.present(dirs, diff_id) for diff_id in there):  # none was removed before we had its lock
                missing = {diff_id: blob for diff_id, blob in missing.items() if not changes.present(dirs, diff_id)}
                _unpack_missing(dirs, missing, work, unpack_all)
                changes.publish(dirs, work, [NewImage(image.config, image.names, image.digests) for image in found])
                return


def _unpack_missing(dirs: Dirs, missing: dict[str, Blob], work: str, unpack_all: UnpackAll) -> None:
    placed: list[str] = []

    def place(diff_id: str) -> None:
        key = store.layer_key(diff_id)
        changes.place(dirs, key, f"{work}/{key}")
        placed.append(key)

    try:
        if missing:
            unpack_all(missing, place)
    except Exception as error:
        if not getattr(error, "passes", False):
            for key in placed:  # nobody can have taken them for granted: we hold their locks
                os.rename(f"{dirs.layers}/{key}", f"{work}/{key}")
        raise


def unpack(source: Source, size: int, blob: Blob, diff_id: str, work: str) -> layerfile.Layer:
    """Unpack one layer into the workspace and close its source, whose length is ``size`` bytes. Raises ImageError."""
    folder = f"{work}/{store.layer_key(diff_id)}"
    try:
        if blob.size not in (-1, size):
            raise ImageError(f"its blob has {size} bytes, not {blob.size} as its manifest says")
        raw = Metered(source)
        plain = decompressed(raw)
        try:
            made = layer.unpack(plain, folder, diff_id)
            raw.drain()
        finally:
            close(plain)
    except EOFError as error:
        raise ImageError(f"damaged: {error}") from None
    finally:
        close(source)
    if blob.digest not in ("", raw.digest()):
        raise ImageError(f"its blob is {raw.digest()}, not {blob.digest} as its manifest says")
    return made
