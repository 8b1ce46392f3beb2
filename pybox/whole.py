"""Files that are there whole or not at all: written beside their place, and put there at the end."""

from __future__ import annotations

import os
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def replacing(path: str) -> Iterator[int]:
    """Give an fd to write to, and have ``path`` lead to what was written when the block has ended well.

    What is there and no plain file, a pipe or /dev/null, is written to instead. Raises OSError.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
        return
    part = f"{path}.part-{os.getpid()}"
    # not through a link that a stranger has put there
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            yield fd
        finally:
            os.close(fd)
        os.rename(part, path)
    except BaseException:
        os.unlink(part)
        raise
