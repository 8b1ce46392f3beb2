"""Tars, honest and hostile, made entry by entry; and what a store and a tree look like afterwards."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

from pybox.dirs import Dirs


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", *, link: str = "", mode: int = 0o644, **more: object):
    """One tar entry: (TarInfo, content)."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.size = kind, mode, link, len(data)
    info.uid, info.gid = os.geteuid(), os.getegid()
    for field, value in more.items():
        setattr(info, field, value)
    return info, data


def folder(name: str, mode: int = 0o755, **more: object):
    return entry(name, tarfile.DIRTYPE, mode=mode, **more)


def symlink(name: str, target: str):
    return entry(name, tarfile.SYMTYPE, link=target)


def hardlink(name: str, target: str):
    return entry(name, tarfile.LNKTYPE, link=target)


def raw(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """The entries without an end."""
    out = b""
    for info, data in entries:
        out += info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + data + b"\0" * (-len(data) % 512)
    return out


def tar(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    return raw(*entries) + b"\0" * 1024


def source(data: bytes) -> io.BytesIO:
    return io.BytesIO(data)


def dirs(tmp_path: Path) -> Dirs:
    return Dirs(str(tmp_path / "store"), str(tmp_path / "state"))


def contents(store: str) -> set[str]:
    """Everything in a store but its own skeleton."""
    found = set()
    for parent, folders, files in os.walk(store):
        found |= {os.path.relpath(f"{parent}/{name}", store) for name in folders + files}
    return found - {"images", "images/names", "layers", "locks"}


def snapshot(root: str | Path) -> dict[str, tuple[object, ...]]:
    """A tree as a value: kind, mode, owner, size or target, seconds, content, attributes, for each path."""
    found: dict[str, tuple[object, ...]] = {}
    root = str(root)
    for parent, folders, files in os.walk(root):
        for name in ["", *folders, *files] if parent == root else folders + files:
            path = os.path.join(parent, name) if name else root
            status = os.lstat(path)
            value: object = None
            if stat.S_ISREG(status.st_mode):
                value = Path(path).read_bytes() if os.access(path, os.R_OK) else "unreadable"
            elif stat.S_ISLNK(status.st_mode):
                value = os.readlink(path)
            elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                value = status.st_rdev
            attributes = {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)}
            links = status.st_nlink if stat.S_ISREG(status.st_mode) else 0
            found[os.path.relpath(path, root)] = (
                status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns // 10**9, links, value, tuple(sorted(attributes.items())),
            )  # fmt: skip
    return found
