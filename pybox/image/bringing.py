"""Bringing described images into the store, wherever their blobs come from: all of them, verified, or nothing.

Nothing that an archive or a registry says is believed: each blob is checked against its digest and size, each layer against its
diffID, and only when all layers of all images are unpacked and verified does the first image become visible.
"""

from __future__ import annotations

from pybox.dirs import Dirs
from pybox.errors import ImageError
from pybox.image import changes, layer, layerfile, store
from pybox.image.changes import Locks, NewImage
from pybox.image.manifest import Blob, Found
from pybox.image.stream import Metered, close, decompressed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pybox.image.stream import Source


def bring_in(dirs: Dirs, found: Iterable[Found], work: str, unpack_all: Callable[[dict[str, Blob]], None]) -> None:
    """Put images into the store. ``unpack_all`` gets {diffID: blob} of the layers that are missing and unpacks them into ``work``.

    It is called with the locks of all layers held: of two processes that want the same image one brings it in, and the other
    finds it there. Raises what ``unpack_all`` raises; the store is then as it was.
    """
    found = list(found)
    blobs = {diff_id: blob for image in found for diff_id, blob in zip(image.config.diff_ids, image.layers, strict=True)}
    with Locks(dirs, map(store.layer_key, blobs)):
        missing = {diff_id: blob for diff_id, blob in blobs.items() if not changes.present(dirs, diff_id)}
        if missing:
            unpack_all(missing)
        for diff_id in missing:
            changes.place(dirs, store.layer_key(diff_id), f"{work}/{store.layer_key(diff_id)}")
        changes.publish(dirs, work, [NewImage(image.config, image.names, image.digests) for image in found])


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
