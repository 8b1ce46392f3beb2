"""Seams: directories that a layer has without a word about them stay as a lower layer made them.

A tar may hold ``tmp/x`` and no ``tmp``: Bazel, ko and jib write such. Who unpacks layers one over the other then leaves /tmp as it
was, 1777. Overlayfs shows the topmost layer's directory, and a layer that images share can't know upon which it will lie. So an
image that needs it gets one layer more, on top: these directories and nothing else, as they are to be. Its key is the digest of
what it says, so images share seams, too. The root is left out: a container shows that of its writable layer.
"""

from __future__ import annotations

import os
import stat

from pybox.dirs import Dirs
from pybox.image import layerfile
from pybox.image.layerfile import Layer
from pybox.image.tree import DIRECTORY, OPAQUE, descend
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Path = tuple[bytes, ...]


class _Said(Record):
    """What a layer says of a directory."""

    mode: int
    uid: int
    gid: int
    mtime: int  # ns
    xattrs: tuple[tuple[str, bytes], ...]


def implied(layer: Layer) -> frozenset[bytes]:
    """Return the directories of a layer that are only there for what is in them."""
    return frozenset(path.encode("utf-8", "surrogateescape") for path in layer.implied)


def make(dirs: Dirs, keys: Sequence[str], work: str) -> str:
    """Make the seam of an image in the workspace, and return its key; "" when it needs none. ``keys``: topmost first.

    Raises OSError, ImageError.
    """
    layers = [layerfile.read(f"{dirs.layers}/{key}") for key in keys]
    silent = [implied(layer) for layer in layers]
    lowest = max((number for number, layer in enumerate(layers) if layer.describes), default=0)
    asked = {tuple(path.split(b"/")) for paths in silent[:lowest] for path in paths if path}
    if not asked:
        return ""
    roots: list[int] = []
    try:
        for key in keys:
            roots.append(os.open(f"{dirs.layers}/{key}/fs", DIRECTORY))
        found: dict[Path, _Said] = {}
        for path in asked:
            said, shown = _look(roots, silent, path)
            if said is not None and said != shown:
                found[path] = said
        for path in list(found):  # what leads there is in the seam as well, and must say the same as before
            for depth in range(len(path)):
                if path[:depth] not in found:
                    said, shown = _look(roots, silent, path[:depth])
                    found[path[:depth]] = said or shown
    finally:
        for root in roots:
            os.close(root)
    return _write(found, work) if found else ""


def _look(roots: Sequence[int], silent: Sequence[frozenset[bytes]], path: Path) -> tuple[_Said | None, _Said]:
    """Return what the topmost layer with a word on a directory says of it (None: there is none), and what overlayfs shows."""
    shown: _Said | None = None
    for root, unsaid in zip(roots, silent, strict=True):
        said, last = _in_layer(root, path)
        if said is not None:
            shown = shown or said
            if b"/".join(path) not in unsaid:
                return said, shown
        if last:
            break
    return None, shown or _Said(0o755, 0, 0, 0, ())


def _in_layer(root: int, path: Path) -> tuple[_Said | None, bool]:
    """Return what one layer has at a path, and whether it hides there what is below it."""
    hides = False
    for depth in range(len(path) + 1):
        try:
            fd = descend(root, path[:depth])
        except FileNotFoundError:
            return None, hides
        except OSError:  # no directory: a whiteout, a file or a link; or one that a plain user can't look into
            return None, True
        try:
            notes = os.listxattr(fd)
            if depth < len(path):  # an opaque directory hides what is in it, but is itself what it was
                hides = hides or any(name in OPAQUE for name in notes)
            else:
                status = os.fstat(fd)
                kept = tuple(
                    (name, os.getxattr(fd, name)) for name in sorted(notes) if name.startswith("user.") and name not in OPAQUE
                )
                return _Said(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, kept), hides
        finally:
            os.close(fd)
    raise AssertionError


def _write(found: dict[Path, _Said], work: str) -> str:
    import hashlib

    text = repr([(path, *(value for _, value in said.items())) for path, said in sorted(found.items())])
    digest = hashlib.sha256(b"seam " + text.encode()).hexdigest()
    folder = f"{work}/{digest[:32]}"
    if os.path.isdir(folder):  # of another image of the same archive
        return digest[:32]
    os.makedirs(f"{folder}/fs", 0o700)
    top = os.fsencode(f"{folder}/fs")
    for path in sorted(found)[1:]:
        os.mkdir(b"/".join((top, *path)), 0o700)
    for path, said in sorted(found.items(), reverse=True):  # the time and the mode of a directory come after what is in it
        place = b"/".join((top, *path))
        if os.geteuid() == 0:
            os.chown(place, said.uid, said.gid)
        for name, value in said.xattrs:
            os.setxattr(place, name, value)
        os.chmod(place, said.mode)
        os.utime(place, ns=(said.mtime, said.mtime))
    layerfile.write(folder, Layer(f"sha256:{digest}", 0, len(found), 0))
    return digest[:32]
