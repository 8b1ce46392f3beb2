"""Place: where a path is looked up. In a container by its root's fd and the kernel's own rules, on the host as anybody does.

A container may change any name at any moment, so no name of its is used twice: openat2(2) with RESOLVE_IN_ROOT and
RESOLVE_NO_MAGICLINKS resolves a path in one piece, ".." and links included, and cannot leave the root; from there on all is
done below the fd it gave, one component at a time and never through a link (CVE-2018-15664, CVE-2019-14271).
"""

from __future__ import annotations

import os

from pybox import native
from pybox.errors import PyboxError
from pybox.files.reach import is_directory
from pybox.image.tape import shown
from pybox.record import Record

_LINKS = 40  # as the kernel's own MAXSYMLINKS
_TRIES = 1000
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Place(Record):
    """A root to look paths up in; ``root`` is -1 for the host's, as the caller sees it."""

    root: int = -1

    def open(self, path: str, flags: int) -> int:
        """Return an fd of a path. Raises OSError."""
        if self.root < 0:
            return os.open(path or ".", flags | os.O_CLOEXEC)
        for attempt in range(1, _TRIES + 1):
            try:
                return native.open_in_root(self.root, path.lstrip("/") or ".", flags)
            except BlockingIOError:  # EAGAIN: a rename somewhere, so the kernel can't vouch for a ".."; openat2(2) says try again
                if attempt == _TRIES:
                    raise
        raise AssertionError

    def source(self, path: str, follow: bool) -> int:
        """Return an O_PATH fd of what is to be copied: of a link itself unless ``follow``. Raises PyboxError."""
        try:
            return self.open(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
        except OSError as error:
            raise PyboxError(f"{shown(path)}: {error.strerror}") from None

    def folder(self, path: str) -> int:
        """Return an O_PATH fd of a directory. Raises PyboxError."""
        try:
            return self.open(path, _FOLDER)
        except OSError as error:
            raise PyboxError(f"{shown(path)}: {error.strerror}", "a tar is unpacked in a directory that exists") from None

    def landing(self, path: str, base: bytes, directory: bool, contents: bool) -> tuple[int, list[bytes]]:
        """Return where a copy goes: an open directory, and the name in it ([]: the directory itself).

        Docker's rules. ``base`` is the name of the source, ``directory`` whether it is one, ``contents`` whether only what is in
        it was asked for (``SRC/.``). Raises PyboxError.
        """
        try:
            there = self.open(path, os.O_PATH)
        except FileNotFoundError:
            there = -1
        except OSError as error:
            raise PyboxError(f"{shown(path)}: {error.strerror}") from None
        if there >= 0:
            if is_directory(there):
                return there, [] if (directory and contents) or not base else [base]
            os.close(there)
            if directory:
                raise PyboxError(f"{shown(path)}: cannot copy a directory to a file")
        elif not directory and path.endswith(("/", "/.")):
            raise PyboxError(f"{shown(path)}: no such directory", "without the / at its end it would become a file")
        return self._name(path)

    def _name(self, path: str) -> tuple[int, list[bytes]]:
        """Return the directory and the last name of a path, links at its end followed: what is written is what they lead to."""
        wanted = path
        for _ in range(_LINKS):
            folder, _, name = path.rstrip("/").rpartition("/")
            if name in ("", ".", ".."):
                break
            folder = folder or ("/" if path.startswith("/") else ".")
            try:
                fd = self.open(folder, _FOLDER)
            except OSError as error:
                raise PyboxError(f"{shown(folder)}: {error.strerror}", "it is not made by itself") from None
            try:
                link = os.fsdecode(os.readlink(os.fsencode(name), dir_fd=fd))
            except OSError:  # no link
                return fd, [os.fsencode(name)]
            os.close(fd)
            path = link if link.startswith("/") else f"{folder}/{link}"
        raise PyboxError(f"{shown(wanted)}: it leads nowhere")
