"""The build cache: what a step made, under a key of all that it was made from.

    <store>/builds/<64 hex>     JSON: the image that stood there after the step, and when that was

The key is the parent's key, the instruction with its variables replaced, and a digest of what it copies. A step that made files
is an image without a name (marked as a step, so that `pybox images` shows it only with -a): its layers are protected and counted
as any other's, `pybox image prune` removes them, and a cache entry whose image is gone means nothing. An entry is one rename.
"""

from __future__ import annotations

import hashlib
import os

from pybox import fastjson
from pybox.dirs import Dirs, ensure
from pybox.record import Record


class Known(Record):
    """What a step made before."""

    image: str  # 64 hex digits of the id of the image whose layers it stands on; "" for scratch
    created: str  # RFC 3339
    layer: bool = False  # it has a layer of its own


def key(*parts: str) -> str:
    """Return the key of a step from its parts; none can run into the next."""
    found = hashlib.sha256()
    for part in parts:
        blob = part.encode("utf-8", "surrogateescape")
        found.update(b"%d:" % len(blob) + blob)
    return found.hexdigest()


def look(dirs: Dirs, name: str) -> Known | None:
    """Return what is known of a step, None where nothing is or its image is gone."""
    try:
        with open(f"{dirs.store}/builds/{name}", encoding="ascii") as file:
            found = fastjson.loads(file.read())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    image, created, layer = str(found.get("image", "")), str(found.get("created", "")), found.get("layer") is True
    if image and not os.path.exists(f"{dirs.images}/{image}.json"):
        return None
    return Known(image, created, layer)


def remember(dirs: Dirs, work: str, name: str, known: Known) -> None:
    """Keep what a step made; ``work`` is a workspace of the store. Raises OSError."""
    ensure(f"{dirs.store}/builds")
    with open(f"{work}/known", "w", encoding="ascii") as file:
        file.write(fastjson.dumps(dict(known.items())))  # type: ignore[arg-type]
    os.rename(f"{work}/known", f"{dirs.store}/builds/{name}")


def sweep(dirs: Dirs) -> None:
    """Forget what can't be used any more. Raises OSError."""
    try:
        names = os.listdir(f"{dirs.store}/builds")
    except FileNotFoundError:
        return
    for name in names:
        if look(dirs, name) is None:
            try:
                os.unlink(f"{dirs.store}/builds/{name}")
            except FileNotFoundError:  # another build was quicker
                pass
