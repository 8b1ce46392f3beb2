"""What os and os.path add to the system calls, as far as the way of `run` needs it.

`os` is the module posix and a thousand lines of Python around it, which cost a start a millisecond, a twelfth of it. So the
modules on that way say ``import posix as os``, and a test sees to it that none of them brings the other in.
"""

from __future__ import annotations

import posix as os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FILE, DIRECTORY, LINK = 0o100000, 0o040000, 0o120000


def kind(path: str, follow: bool = True) -> int | None:
    """Return the S_IFMT bits of what a path leads to, inode(7), or of the link that it is; None where there is nothing."""
    try:
        return os.stat(path, follow_symlinks=follow).st_mode & 0o170000
    except (OSError, ValueError):
        return None


def exists(path: str) -> bool:
    """Return whether a path leads to something."""
    return kind(path) is not None


def is_dir(path: str) -> bool:
    """Return whether a path leads to a directory."""
    return kind(path) == DIRECTORY


def is_file(path: str) -> bool:
    """Return whether a path leads to a regular file."""
    return kind(path) == FILE


def is_link(path: str) -> bool:
    """Return whether a path is a symbolic link."""
    return kind(path, follow=False) == LINK


def is_there(path: str) -> bool:
    """Return whether there is something of that name, be it a link that leads nowhere."""
    return kind(path, follow=False) is not None


def same_file(path: str, other: str) -> bool:
    """Return whether two paths lead to one file. Raises OSError."""
    return os.stat(path)[1:3] == os.stat(other)[1:3]  # inode and device


def absolute(path: str) -> str:
    """Return a path as os.path.abspath does; one that is so already costs nothing."""
    if path.startswith("/") and not path.endswith("/") and "//" not in path and "/." not in path:
        return path
    from os.path import abspath

    return abspath(path)


def make_dirs(path: str, mode: int = 0o777) -> None:
    """Create a directory and its parents, as far as they are not there."""
    from os import makedirs

    makedirs(path, mode, exist_ok=True)


def encode(text: str) -> bytes:
    """Return a file name or an argument as the kernel is given it, like os.fsencode."""
    return text.encode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def environment() -> Mapping[str, str]:
    """Return os.environ, of which a program may have changed its own copy; what this process was started with before that."""
    known = sys.modules.get("os")
    if known is not None:
        found: Mapping[str, str] = known.environ
        return found
    coding = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    return {name.decode(*coding): value.decode(*coding) for name, value in os.environ.items()}
