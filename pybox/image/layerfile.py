"""layer.json: what is kept of a layer beside its tree."""

from __future__ import annotations

from pybox import fastjson
from pybox.errors import ImageError
from pybox.record import Record


class Layer(Record):
    """An unpacked layer."""

    diff_id: str  # "sha256:<hex>" of the uncompressed tar
    size: int  # bytes of the regular files
    entries: int
    tar_size: int  # bytes of the uncompressed tar
    moved: tuple[tuple[int, str, int], ...] = ()  # see split.py; the path as `tarfile` decodes it
    implied: tuple[str, ...] = ()  # directories that are only there for what is in them, see seam.py; "" is the root
    describes: bool = True  # any directory at all, beside the root


def write(folder: str, layer: Layer) -> None:
    """Write the record into the layer's directory. Raises OSError."""
    moved: list[fastjson.Json] = [list(move) for move in layer.moved]
    implied: list[fastjson.Json] = list(layer.implied)
    document: dict[str, fastjson.Json] = {
        "diff_id": layer.diff_id,
        "size": layer.size,
        "entries": layer.entries,
        "tar_size": layer.tar_size,
        "moved": moved,
        "implied": implied,
        "describes": layer.describes,
    }
    with open(f"{folder}/layer.json", "x", encoding="ascii") as file:
        file.write(fastjson.dumps(document))


def read(folder: str) -> Layer:
    """Read the record of a layer's directory. Raises ImageError when it is absent or damaged."""
    try:
        with open(f"{folder}/layer.json", encoding="ascii") as file:
            found = fastjson.loads(file.read())
        implied = found.get("implied", []) if isinstance(found, dict) else []
        if not isinstance(found, dict) or not isinstance(found["moved"], list) or not isinstance(implied, list):
            raise ValueError
        moved = []
        for move in found["moved"]:
            if not isinstance(move, list):
                raise ValueError
            moved.append((_number(move[0]), str(move[1]), _number(move[2])))
        size, entries, tar_size = (_number(found[field]) for field in ("size", "entries", "tar_size"))
        describes = found.get("describes") is not False
        return Layer(str(found["diff_id"]), size, entries, tar_size, tuple(moved), tuple(map(str, implied)), describes)
    except (OSError, ValueError, IndexError, KeyError):
        raise ImageError(f"layer {folder} is damaged: its layer.json", "remove its images and load them again") from None


def _number(value: fastjson.Json) -> int:
    if not isinstance(value, int):
        raise ValueError
    return value
