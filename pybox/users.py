"""Whom a command runs as: --user against the image's /etc/passwd and /etc/group, passwd(5), group(5).

The files are the image's, so they are read by fd, inside each layer, as data. No C library function looks anything up: those
would load code and settings by the image's say-so (CVE-2019-14271).
"""

from __future__ import annotations

import os

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
    for layer in image.layers:
        root = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = native.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            continue
        finally:
            os.close(root)
        try:
            if os.fstat(fd).st_mode & 0o170000 == 0o100000:
                return os.read(fd, _MOST).decode(errors="surrogateescape")
            return ""  # a whiteout: deleted in this layer
        except OSError:
            return ""
        finally:
            os.close(fd)
    return ""


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


def _rows(text: str, fields: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        row = line.split(":")
        if len(row) >= fields and row[2].isascii() and row[2].isdigit() and int(row[2]) <= ID_MAX:
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
    gid = int(row[3]) if row and row[3].isascii() and row[3].isdigit() else 0
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
