"""Under which digests a layer is known to registries: what was pulled, and what was pushed.

The store keeps a layer's tree, not its compressed blob; remembering the blob's digest is enough to find it at a registry again
and not to compress and upload it a second time. A hint, no promise: absent or damaged, it is as if nothing were known.
"""

from __future__ import annotations

import os

from pybox import fastjson
from pybox.image.manifest import Blob

_MOST = 8


def note(folder: str, blob: Blob) -> None:
    """Remember a blob of the layer in ``folder``. Raises OSError."""
    known = [(each.digest, each.size, each.kind) for each in known_of(folder) if each.digest != blob.digest]
    rows: list[fastjson.Json] = [list(row) for row in [(blob.digest, blob.size, blob.kind), *known][:_MOST]]
    part = f"{folder}/blobs.json.{os.getpid()}"
    with open(part, "w", encoding="ascii") as file:
        file.write(fastjson.dumps(rows))
    os.rename(part, f"{folder}/blobs.json")


def known_of(folder: str) -> list[Blob]:
    """Return what is remembered of a layer, the newest first."""
    try:
        with open(f"{folder}/blobs.json", encoding="ascii") as file:
            rows = fastjson.loads(file.read())
        found = []
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, list) and len(row) == 3 and isinstance(row[1], int):
                found.append(Blob("", str(row[0]), row[1], str(row[2])))
        return found
    except (OSError, ValueError):
        return []
