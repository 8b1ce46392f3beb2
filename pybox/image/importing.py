"""Importing a root file system, a tar or a directory, as an image of one layer (docker import)."""

from __future__ import annotations

import os

from pybox.dirs import Dirs
from pybox.errors import ImageError, ImageNotFound
from pybox.image import changes, config, layer, store
from pybox.image.changes import Locks, NewImage
from pybox.image.lock import Workspace
from pybox.image.model import ImageConfig
from pybox.image.pack import packed
from pybox.image.shelf import open_file
from pybox.image.stream import Chunks, Metered, close, decompressed
from pybox.times import dated, rfc3339, source_date_epoch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.image.layerfile import Layer


def import_(dirs: Dirs, name: str, source: str, *, run: ImageConfig | None = None, architecture: str = "") -> str:
    """Make an image of a directory, a tar (plain, gzip or zstd), or "-" for a tar on standard input; returns its id.

    The same tree with the same settings under the same name is the same image: its id does not change. ``architecture``
    (GOARCH name) defaults to the machine's. Raises ImageError; the store is then as it was.
    """
    run, architecture = run or ImageConfig(), architecture or store.architecture()
    name = changes.tag_name(name)
    changes.prepare(dirs)
    try:
        with Workspace(dirs.store) as work:
            made = _unpack(source, f"{work}/layer")
            _refuse_archives(f"{work}/layer/fs")
            key = store.layer_key(made.diff_id)
            with Locks(dirs, (key,)):
                settings = config.make(
                    made.diff_id, run, architecture, _created(dirs, name, made, run, architecture), "pybox import"
                )
                changes.place(dirs, key, f"{work}/layer")
                changes.publish(dirs, work, (NewImage(settings, (name,)),))
            return settings.id
    except OSError as error:
        raise ImageError(f"importing {source}: {error.strerror or error}") from None


def _unpack(source: str, folder: str) -> Layer:
    if source != "-" and os.path.isdir(source):
        return layer.unpack(Chunks(packed(source)), folder)
    with open_file(source) as file:
        plain = decompressed(Metered(file))
        try:
            return layer.unpack(plain, folder)
        except ImageError as error:
            raise ImageError(f"{source}: {error.message}", error.hint) from None
        finally:
            close(plain)


def _refuse_archives(root: str) -> None:
    there = set(os.listdir(root))
    if there & {"manifest.json", "oci-layout"} and not there & {"bin", "usr", "etc"}:
        raise ImageError("this is an image archive, not a root file system", "use `pybox load`")


def _created(dirs: Dirs, name: str, made: Layer, run: ImageConfig, architecture: str) -> str:
    """Return the time of creation (RFC 3339); that of the present image when nothing else would differ."""
    try:
        there = store.stored(dirs, name)
        if (there.diff_ids, there.config, there.architecture) == ((made.diff_id,), run, architecture):
            return there.created
    except ImageNotFound:
        pass
    return rfc3339(dated(source_date_epoch()))
