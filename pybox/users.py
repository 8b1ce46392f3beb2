"""Whom a command runs as: --user against the image's /etc/passwd and /etc/group, passwd(5), group(5).

The files are the image's, so they are read by fd, inside each layer, as data. No C library function looks anything up: those
would load code and settings by the image's say-so (CVE-2019-14271).
"""

from __future__ import annotations

import posix as os

from pybox import native
from pybox.errors import SpecError
from pybox.image.model import Image
from pybox.kernel.inputs import Account
from pybox.spec import ID_MAX, parse_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST = 16 << 20  # bytes; a longer passwd file is not one


def read_in_image(image: Image, path: str) -> str:
    """Return the text of a file as the image's stacked layers show it; "" when there is none."""
    return _follow(image, path)[1]


def place_in_image(image: Image, path: str) -> str:
    """Return the path at the end of a path's symlinks; "" when there is no file."""
    place, text = _follow(image, path)
    return place if text else ""


def _follow(image: Image, path: str) -> tuple[str, str]:
    for _ in range(8):  # symlinks followed
        found, link = None, ""
        for layer in image.layers:
            found, link = _read_in_layer(layer, path)
            if link or found is not None:
                break
        if not link:
            return path, found or ""
        path = link
    return path, ""


def _read_in_layer(layer: str, path: str) -> tuple[str | None, str]:
    """Return (text, ""), ("", "") when this layer hides the file, (None, "") to ask the next, (None, path) to look there instead.

    The rules of overlayfs: a 0:0 device hides a name, an opaque directory all that is below it (overlayfs.rst).
    """
    root = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        parts, below = path.split("/"), None
        for count in range(1, len(parts) + 1):
            here = "/".join(parts[:count])
            try:
                mode = os.stat(here, dir_fd=root, follow_symlinks=False).st_mode & 0o170000
            except OSError:
                return below, ""
            if mode == 0o120000:
                from os.path import join, normpath

                target = join("/", *parts[: count - 1], os.readlink(here, dir_fd=root), *parts[count:])
                return None, normpath(target).lstrip("/") or "."
            if mode == 0o040000 and count < len(parts):
                if _opaque(f"/proc/self/fd/{root}/{here}"):
                    below = ""
            elif mode == 0o100000 and count == len(parts):
                fd = native.open_in_root(root, here, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
                try:
                    return os.read(fd, _MOST).decode(errors="surrogateescape"), ""
                finally:
                    os.close(fd)
            else:
                return "", ""
        return "", ""
    except OSError:
        return "", ""
    finally:
        os.close(root)


def _opaque(path: str) -> bool:
    for name in ("trusted.overlay.opaque", "user.overlay.opaque"):
        try:
            if os.getxattr(path, name) == b"y":
                return True
        except OSError:
            pass
    return False


def etc_mode(image: Image, owner: tuple[int, int]) -> int | None:
    """Return the mode of the image's /etc if a fresh directory of that mode can stand above it: same owner, no attributes."""
    for layer in image.layers:
        try:
            status = os.lstat(f"{layer}/etc")
            plain = status.st_mode & 0o170000 == 0o040000 and (status.st_uid, status.st_gid) == owner
            return status.st_mode & 0o7777 if plain and not os.listxattr(f"{layer}/etc", follow_symlinks=False) else None
        except OSError:
            continue
    return None


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= ID_MAX


def _rows(text: str, fields: int) -> Iterator[list[str]]:
    for line in text.split("\n"):  # splitlines() would let a full name with U+2028 begin a line
        row = line.split(":")
        if len(row) >= fields and _is_id(row[2]):
            yield row


def find(image: Image, user: str) -> Account:
    """Resolve ``name|uid[:group|gid]``; "" is root. Raises SpecError for a name that the image does not know."""
    wanted, group = parse_user(user) if user else (0, None)
    row = None
    for entry in _rows(read_in_image(image, "etc/passwd"), 6):
        if entry[0] == wanted or int(entry[2]) == wanted:
            row = entry
            break
    if row is None and isinstance(wanted, str):
        raise SpecError("user", user, f"image {image.name} has no user {wanted!r} in /etc/passwd", "a number needs no entry")
    uid = int(row[2]) if row else int(wanted)
    if row is not None and not _is_id(row[3]):
        raise SpecError(
            "user", user, f"in image {image.name} the group id {row[3][:20]!r} of {row[0]!r} is none", "see passwd(5)"
        )
    gid = int(row[3]) if row else 0
    name = row[0] if row else ""
    groups = tuple(dict.fromkeys(_group_ids(image, user, name, group))) if name or group is not None else ()
    if group is not None:
        gid, groups = groups[0], ()  # an explicit group stands alone, as in docker
    return Account(uid, gid, groups, row[5] if row and row[5].startswith("/") else "/")


def _group_ids(image: Image, user: str, name: str, group: str | int | None) -> Iterator[int]:
    if isinstance(group, int):
        yield group
        return
    found = False
    for row in _rows(read_in_image(image, "etc/group"), 4):
        if (group is None and name in row[3].split(",")) or row[0] == group:
            found = True
            yield int(row[2])
    if group is not None and not found:
        raise SpecError("user", user, f"image {image.name} has no group {group!r} in /etc/group", "a number needs no entry")
