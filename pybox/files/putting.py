"""Putting: a tar becomes files below one open directory, and nothing else is touched, whatever the tar says.

Names with "..", absolute names and names that go through a symbolic link are refused; device nodes are skipped. A directory that
is there already keeps its mode and owner, a file is replaced in one step: until the new one is complete the old one stays.
Neither becomes the other. Who owns what is written decides what comes along: set-user-ID bits and capabilities mean something
only together with the owner, so they are kept only with ``keep``.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile

from pybox.errors import PyboxError
from pybox.image import tape as tapes
from pybox.image.stream import CHUNK
from pybox.image.tape import Tape, shown
from pybox.image.tree import Cursor
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pybox.files.worker import Notes

_LATER = errno.ELOOP, errno.ENOTDIR


class _Attributes(Record):
    mode: int
    uid: int
    gid: int
    mtime: int  # ns
    xattrs: tuple[tuple[str, bytes], ...] = ()


class _Made:
    """A directory that was made: its attributes are set last, since writing into it changes its time."""

    __slots__ = ("attributes", "below")

    def __init__(self) -> None:
        self.attributes: _Attributes | None = None
        self.below: dict[bytes, _Made] = {}


class Putter:
    """Unpacks the entries of ``tape`` below ``root``, each under ``prefix``; ``keep`` sets owners, else they are ``owner``'s.

    ``owner`` None leaves files to whoever makes them.
    """

    def __init__(
        self, tape: Tape, root: int, prefix: list[bytes], notes: Notes, *, keep: bool, owner: tuple[int, int] | None
    ) -> None:
        # O_PATH is enough to find it, not to set its attributes or list it
        self._root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        self._tape, self._prefix, self._notes, self._keep, self._owner = tape, prefix, notes, keep, owner
        self._cursor = Cursor(self._root)
        self._made = _Made()

    def close(self) -> None:
        """Close what is open."""
        self._cursor.close()
        os.close(self._root)

    def run(self, entries: Iterable[tarfile.TarInfo]) -> None:
        """Unpack all entries. Raises PyboxError naming the one that can't be; what came before it stays."""
        for entry in entries:
            try:
                self._entry(entry)
            except OSError as error:
                raise self._refusal(entry, _reason(error)) from None
            except EOFError as error:
                raise self._refusal(entry, f"damaged: {error}") from None
            except (OverflowError, ValueError):
                raise self._refusal(entry, "its time, owner or size is out of range") from None
        self._finish()

    def _refusal(self, entry: tarfile.TarInfo, reason: str, hint: str | None = None) -> PyboxError:
        return PyboxError(f"{shown(entry.name)}: {reason}", hint)

    def _entry(self, entry: tarfile.TarInfo) -> None:
        path = [*self._prefix, *self._names(entry, entry.name)]
        if not path:
            if not entry.isdir():
                raise self._refusal(entry, "only a directory can be the root")
        elif entry.isdir():
            self._directory(entry, path)
        elif entry.isreg():
            self._replace(entry, path, lambda folder, name: self._file(entry, folder, name))
        elif entry.issym():
            self._replace(entry, path, lambda folder, name: self._symlink(entry, folder, name))
        elif entry.islnk():
            target = [*self._prefix, *self._names(entry, entry.linkname)]
            if target != path:
                self._replace(entry, path, lambda folder, name: self._hardlink(entry, target, folder, name))
        elif entry.isfifo():
            self._replace(entry, path, lambda folder, name: self._fifo(entry, folder, name))
        elif entry.ischr() or entry.isblk():
            self._notes.add(f"{shown(entry.name)}: skipped, a device node")
        else:
            raise self._refusal(entry, f"an entry of unknown type {entry.type!r}")

    def _names(self, entry: tarfile.TarInfo, name: str) -> list[bytes]:
        raw = tapes.raw(name)
        names = [part for part in raw.split(b"/") if part not in (b"", b".")]
        if raw.startswith(b"/"):
            raise self._refusal(entry, "an absolute path" + (f" ({shown(name)})" if name != entry.name else ""))
        if b".." in names:
            raise self._refusal(entry, "the path leaves the directory" + (f" ({shown(name)})" if name != entry.name else ""))
        if b"\0" in raw:
            raise self._refusal(entry, "a name with a zero byte")
        return names

    def _attributes(self, entry: tarfile.TarInfo) -> _Attributes:
        uid, gid = (entry.uid, entry.gid) if self._keep else self._owner or (-1, -1)
        kept = []
        for name, value in tapes.xattrs(entry):
            if (name.startswith("user.") and not name.startswith("user.overlay.")) or (
                name == "security.capability" and self._keep
            ):
                kept.append((name, value))
        mode = entry.mode & (0o7777 if self._keep else 0o1777)
        return _Attributes(mode, uid, gid, tapes.mtime_ns(entry), tuple(kept))

    # Making things

    def _parent(self, folders: list[bytes]) -> int:
        """Return the open directory, made where missing. Raises OSError ELOOP or ENOTDIR when a component is none."""
        here = self._cursor.at(folders)
        while here is None or self._cursor.depth < len(folders):
            name = folders[self._cursor.depth]
            try:
                here = self._cursor.enter(name)
            except FileNotFoundError:
                os.mkdir(name, 0o755, dir_fd=self._cursor.here)
                here = self._cursor.enter(name)
                if self._owner is not None:
                    os.chown(here, *self._owner)
        return here

    def _directory(self, entry: tarfile.TarInfo, path: list[bytes]) -> None:
        folder = self._parent(path[:-1])
        try:
            os.mkdir(path[-1], 0o700, dir_fd=folder)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(path[-1], dir_fd=folder, follow_symlinks=False).st_mode):
                raise self._refusal(entry, "cannot overwrite what is there with a directory", _MEND) from None
            if (made := self._node(path)) is not None and made.attributes is not None:
                made.attributes = self._attributes(entry)  # made by this very tar: the last word counts
            return
        node = self._made
        for name in path:
            node = node.below.setdefault(name, _Made())
        node.attributes = self._attributes(entry)

    def _node(self, path: list[bytes]) -> _Made | None:
        node: _Made | None = self._made
        for name in path:
            node = node.below.get(name) if node is not None else None
        return node

    def _replace(self, entry: tarfile.TarInfo, path: list[bytes], make: Callable[[int, bytes], None]) -> None:
        """Make a new thing under a name; in the place of an old one only when it is complete."""
        folder, name = os.dup(self._parent(path[:-1])), path[-1]
        made = name
        try:
            try:
                there = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                pass
            else:
                if stat.S_ISDIR(there.st_mode):
                    raise self._refusal(entry, "cannot overwrite a directory with what is none", _MEND)
                made = b".pybox-" + os.urandom(8).hex().encode()
            try:
                make(folder, made)
                if made != name:
                    os.rename(made, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException as error:
                if made != name or not isinstance(error, FileExistsError):  # else it is not ours
                    _remove(folder, made)
                raise
            if made != name:  # two names of one file: rename(2) then does nothing
                _remove(folder, made)
        finally:
            os.close(folder)

    def _file(self, entry: tarfile.TarInfo, folder: int, name: bytes) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            for offset, length in tapes.pieces(entry):
                while length:
                    data = memoryview(self._tape.content(min(length, CHUNK)))
                    length -= len(data)
                    while data:
                        written = os.pwrite(fd, data, offset)
                        offset, data = offset + written, data[written:]
            if entry.issparse():
                os.ftruncate(fd, entry.size)
            self._set(fd, self._attributes(entry), entry.name)
        finally:
            os.close(fd)

    def _symlink(self, entry: tarfile.TarInfo, folder: int, name: bytes) -> None:
        target = tapes.raw(entry.linkname)
        if not target or b"\0" in target or len(target) > 4095:
            raise self._refusal(entry, "a symbolic link to an impossible name")
        os.symlink(target, name, dir_fd=folder)
        self._set_at(folder, name, self._attributes(entry), entry.name)

    def _fifo(self, entry: tarfile.TarInfo, folder: int, name: bytes) -> None:
        attributes = self._attributes(entry)
        os.mkfifo(name, 0o600, dir_fd=folder)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode):  # still the one just made
                os.chmod(f"/proc/self/fd/{fd}", attributes.mode)
        finally:
            os.close(fd)
        self._set_at(folder, name, attributes, entry.name)

    def _hardlink(self, entry: tarfile.TarInfo, target: list[bytes], folder: int, name: bytes) -> None:
        if not target:
            raise self._refusal(entry, "a hard link to the root")
        source = self._existing(target[:-1])
        there = os.stat(target[-1], dir_fd=source, follow_symlinks=False)
        if not (stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode) or stat.S_ISFIFO(there.st_mode)):
            raise self._refusal(entry, f"a hard link to {shown(entry.linkname)}, which is no file")
        os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)

    def _existing(self, folders: list[bytes]) -> int:
        here = self._cursor.at(folders)
        while here is None or self._cursor.depth < len(folders):
            here = self._cursor.enter(folders[self._cursor.depth])
        return here

    # Metadata

    def _set(self, fd: int, attributes: _Attributes, name: str) -> None:
        """Owner first: chown(2) clears set-user-ID bits and capabilities. Time last."""
        self._chown(fd, attributes, name, None)
        os.chmod(fd, attributes.mode)
        for key, value in attributes.xattrs:
            try:
                os.setxattr(fd, key, value)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES):
                    raise
                self._notes.add(f"{shown(name)}: without its attribute {shown(key)}: {error.strerror}")
        os.utime(fd, ns=(attributes.mtime, attributes.mtime))

    def _set_at(self, folder: int, name: bytes, attributes: _Attributes, full: str) -> None:
        """For what can't be opened; never through a link."""
        self._chown(name, attributes, full, folder)
        os.utime(name, ns=(attributes.mtime, attributes.mtime), dir_fd=folder, follow_symlinks=False)

    def _chown(self, thing: int | bytes, attributes: _Attributes, name: str, folder: int | None) -> None:
        if (attributes.uid, attributes.gid) == (-1, -1):
            return
        try:
            if isinstance(thing, int):
                os.chown(thing, attributes.uid, attributes.gid)
            else:
                os.chown(thing, attributes.uid, attributes.gid, dir_fd=folder, follow_symlinks=False)
        except PermissionError:  # a plain user's copy: what is kept of the owner is a wish
            self._notes.add(f"{shown(name)}: not given to {attributes.uid}:{attributes.gid}, which takes root")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            owner = f"{attributes.uid}:{attributes.gid}"
            raise PyboxError(
                f"{shown(name)}: there is no owner {owner} in the container's user namespace", "leave out -a"
            ) from None

    def _finish(self) -> None:
        """Set the attributes of the directories made, the deepest first."""
        path: list[bytes] = []
        waiting = [(self._made, iter(self._made.below.items()))]
        while waiting:
            node, below = waiting[-1]
            found = next(below, None)
            if found is not None:
                path.append(found[0])
                waiting.append((found[1], iter(found[1].below.items())))
                continue
            waiting.pop()
            if node.attributes is not None:
                try:
                    self._set(self._existing(path), node.attributes, os.fsdecode(path[-1]))
                except OSError as error:
                    if error.errno not in (errno.ENOENT, *_LATER):  # replaced since
                        raise PyboxError(f"{shown(b'/'.join(path))}: {error.strerror}") from None
            del path[-1:]


_MEND = "docker's rule: a copy does not turn one into the other; remove it first"


def _remove(folder: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass


def _reason(error: OSError) -> str:
    if error.errno in _LATER:
        return "its path goes through something that is not a directory (a symbolic link?)"
    if error.errno == errno.EBUSY:
        return "something is mounted there"
    return f"{error.strerror or error} [{errno.errorcode.get(error.errno or 0, error.errno)}]"
