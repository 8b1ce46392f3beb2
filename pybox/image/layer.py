"""Unpacking a layer: an untrusted tar becomes a directory tree, and touches nothing else.

Promises: every name is looked up by directory fd, one component at a time, never through a symbolic link (tree.py); files are
created exclusively; "..", absolute names and hard links out are refused; whiteouts become overlayfs' own (character device
0:0, the opaque attribute), and no tar can bring overlayfs attributes along; ceilings bound bytes, entries, names and depth
before anything is written. A later entry of the same name wins, as in tar.

What is left out, knowingly: as a plain user ownership is the user's (who is root inside) and device nodes are skipped (mknod(2)
needs CAP_MKNOD in the host's user namespace; docker rootless does the same). As root, device nodes are made: the store is 0700
and overlay mounts are nodev, so they are inert. Extended attributes other than user.* and security.capability are dropped.

OCI image-spec layer.md; kernel Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
import zlib

from pybox.errors import ImageError
from pybox.image import ceilings, layerfile
from pybox.image import tape as tapes
from pybox.image.ceilings import Budget, Ceilings
from pybox.image.layerfile import Layer
from pybox.image.split import Splitter
from pybox.image.stream import CHUNK
from pybox.image.tape import Tape, shown
from pybox.image.tree import Cursor
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.image.stream import Source

_META = b".wh..wh."
_AUFS = frozenset((b".wh..wh.aufs", b".wh..wh.orph", b".wh..wh.plnk"))  # bookkeeping of aufs that old layers still carry
_WHITEOUT = stat.S_IFCHR


class _Attributes(Record):
    """Metadata of a directory, set last: writing into it changes its time, and its mode may forbid writing into it."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    implied: bool = True  # no entry says what it is like


def unpack(source: Source, folder: str, diff_id: str | None = None, most: Ceilings | None = None) -> Layer:
    """Unpack an uncompressed tar into the new directory ``folder`` (fs/, old/, split.gz, layer.json).

    Checks the digest when ``diff_id`` is given. Raises ImageError naming the entry; the folder is then the caller's to remove.
    """
    os.mkdir(folder, 0o700)
    os.mkdir(f"{folder}/old", 0o700)
    os.mkdir(f"{folder}/fs", 0o700)
    split = Splitter(f"{folder}/split.gz")
    try:
        tape = Tape(source, split)
        unpacker = _Unpacker(folder, tape, split, most or ceilings.current())
        try:
            unpacker.run()
        finally:
            unpacker.close()
        split.close()
    except OSError as error:
        raise ImageError(f"unpacking: {error.strerror or error}") from None
    except (EOFError, zlib.error) as error:
        raise ImageError(f"damaged at its end: {error}") from None
    finally:
        split.abandon()
    moved = tuple((before, path.decode("utf-8", "surrogateescape"), number) for before, path, number in split.moved)
    implied = tuple(b"/".join(path).decode("utf-8", "surrogateescape") for path in unpacker.implied)
    layer = Layer(tape.digest(), unpacker.used.size, unpacker.used.entries, tape.tell(), moved, implied, unpacker.describes)
    if diff_id is not None and layer.diff_id != diff_id:
        raise ImageError(f"its content is {layer.diff_id}, not {diff_id} as its image says", "the archive is damaged or forged")
    layerfile.write(folder, layer)
    return layer


class _Unpacker:
    """One run over one tar."""

    def __init__(self, folder: str, tape: Tape, split: Splitter, most: Ceilings) -> None:
        self._root = os.open(f"{folder}/fs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._old = os.open(f"{folder}/old", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._cursor = Cursor(self._root)
        self._tape, self._split, self._most = tape, split, most
        self.used = Budget(most, self._root)
        self._is_root = os.geteuid() == 0
        self._opaque = "trusted.overlay.opaque" if self._is_root else "user.overlay.opaque"
        self._folders: dict[tuple[bytes, ...], _Attributes] = {(): _Attributes()}
        self.implied: list[tuple[bytes, ...]] = []  # directories that no entry describes
        self.describes = False

    def close(self) -> None:
        self._cursor.close()
        os.close(self._root)
        os.close(self._old)

    def run(self) -> None:
        """Unpack all entries, then give the directories their metadata, the deepest first."""
        for entry in tapes.entries(self._tape):
            try:
                self._entry(entry)
            except OSError as error:
                raise self._refusal(entry, _reason(error)) from None
            except OverflowError:
                raise self._refusal(entry, "its time, owner or device number is out of range") from None
            except (EOFError, zlib.error) as error:
                raise self._refusal(entry, f"damaged: {error}") from None
        self._tape.drain(self._most.tail)
        for path in sorted(self._folders, reverse=True):
            self._finish(path, self._folders[path])

    def _refusal(self, entry: tarfile.TarInfo, reason: str, hint: str | None = None) -> ImageError:
        return ImageError(f"{shown(entry.name)}: {reason}", hint)

    def _entry(self, entry: tarfile.TarInfo) -> None:
        try:
            self.used.entry(entry.size if entry.isreg() else 0)
        except ImageError as error:
            raise self._refusal(entry, error.message, error.hint) from None
        path = self._names(entry, entry.name)
        attributes = self._attributes(entry)
        if not path:
            if not entry.isdir():
                raise self._refusal(entry, "only a directory can be the root")
            self._folders[()] = attributes
            return
        *folders, name = path
        if any(folder.startswith(b".wh.") for folder in folders):
            raise self._refusal(entry, "a whiteout is not a directory")
        if name.startswith(b".wh."):
            self._whiteout(entry, folders, name[4:], name)
        elif entry.isdir():
            self._directory(path, attributes)
        elif entry.isreg():
            self._file(entry, path, attributes)
        elif entry.issym():
            self._symlink(entry, path, attributes)
        elif entry.islnk():
            self._hardlink(entry, path)
        elif entry.isfifo() or entry.ischr() or entry.isblk():
            self._special(entry, path, attributes)
        else:
            raise self._refusal(entry, f"an entry of unknown type {entry.type!r}")

    # What a name, an owner, an attribute may be

    def _names(self, entry: tarfile.TarInfo, name: str) -> list[bytes]:
        raw = tapes.raw(name)
        if raw.startswith(b"/"):
            raise self._refusal(entry, "an absolute path" + (f" ({shown(name)})" if name != entry.name else ""))
        if b"\0" in raw:
            raise self._refusal(entry, "a name with a zero byte")
        if len(raw) > self._most.path:
            raise self._refusal(entry, f"a path of more than {self._most.path} bytes")
        names = [part for part in raw.split(b"/") if part not in (b"", b".")]
        if b".." in names:
            raise self._refusal(entry, "the path leaves the layer" + (f" ({shown(name)})" if name != entry.name else ""))
        if len(names) > self._most.depth:
            raise self._refusal(entry, f"more than {self._most.depth} directories deep")
        return names

    def _attributes(self, entry: tarfile.TarInfo) -> _Attributes:
        for number in (entry.uid, entry.gid):
            if not 0 <= number < 2**32 - 1:
                raise self._refusal(entry, f"no such user or group id: {number}")
        kept = []
        for name, value in tapes.xattrs(entry):
            if name.startswith(("trusted.overlay.", "user.overlay.")):
                raise self._refusal(entry, f"the attribute {shown(name)} is overlayfs' own", "a layer says it with .wh. files")
            of_user = name.startswith("user.") and (entry.isreg() or entry.isdir())
            if of_user or (name == "security.capability" and self._is_root and entry.isreg()):
                kept.append((name, value))
        return _Attributes(entry.mode & 0o7777, entry.uid, entry.gid, tapes.mtime_ns(entry), tuple(kept), implied=False)

    # Making things

    def _parent(self, folders: list[bytes]) -> int:
        """Return the open directory, made where missing. Raises OSError ELOOP or ENOTDIR when a component is none."""
        here = self._cursor.at(folders)
        if here is not None:
            return here
        for depth in range(self._cursor.depth, len(folders)):
            name = folders[depth]
            try:
                here = self._cursor.enter(name)
            except (FileNotFoundError, NotADirectoryError) as error:
                hidden = isinstance(error, NotADirectoryError)
                if hidden and not _is_whiteout(os.stat(name, dir_fd=self._cursor.here, follow_symlinks=False)):
                    raise
                if hidden:
                    os.unlink(name, dir_fd=self._cursor.here)
                os.mkdir(name, 0o700, dir_fd=self._cursor.here)
                self.used.entry()
                self._folders[tuple(folders[: depth + 1])] = _Attributes()
                here = self._cursor.enter(name)
                if hidden:
                    os.setxattr(here, self._opaque, b"y")
        assert here is not None
        return here

    def _clear(self, path: list[bytes]) -> tuple[int, bool]:
        """Make way for an entry; returns (parent, whether a whiteout stood there). A later entry wins.

        Contents that the split refers to go to old/, all else away.
        """
        parent, name = self._parent(path[:-1]), path[-1]
        try:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return parent, False
        if stat.S_ISDIR(there.st_mode) or stat.S_ISREG(there.st_mode):
            number = len(self._split.moved)
            self._split.moved.append((self._split.pieces, b"/".join(path), number))
            os.rename(name, b"%d" % number, src_dir_fd=parent, dst_dir_fd=self._old)
        else:
            os.unlink(name, dir_fd=parent)
        return parent, _is_whiteout(there)

    def _directory(self, path: list[bytes], attributes: _Attributes) -> None:
        parent = self._parent(path[:-1])
        self._folders[tuple(path)] = attributes
        try:
            os.mkdir(path[-1], 0o700, dir_fd=parent)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(path[-1], dir_fd=parent, follow_symlinks=False).st_mode):
                return
            parent, was_whiteout = self._clear(path)
            os.mkdir(path[-1], 0o700, dir_fd=parent)
            if was_whiteout:
                self._hide_below(path)

    def _file(self, entry: tarfile.TarInfo, path: list[bytes], attributes: _Attributes) -> None:
        parent = self._parent(path[:-1])
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(path[-1], flags, 0o600, dir_fd=parent)
        except FileExistsError:
            parent, _ = self._clear(path)
            fd = os.open(path[-1], flags, 0o600, dir_fd=parent)
        try:
            # What its own user can't read back later is kept in the split.
            readable = self._is_root or bool(attributes.mode & stat.S_IRUSR)
            for offset, length in tapes.pieces(entry):
                if readable:
                    self._split.content(b"/".join(path), offset, length)
                self._write(fd, offset, length, readable=readable)
            if entry.issparse():
                os.ftruncate(fd, entry.size)
            self._set(fd, attributes)
        finally:
            os.close(fd)

    def _write(self, fd: int, offset: int, length: int, *, readable: bool) -> None:
        while length:
            step = min(length, CHUNK)
            data = memoryview(self._tape.content(step) if readable else self._tape.literal(step))
            length -= step
            while data:
                written = os.pwrite(fd, data, offset)
                offset, data = offset + written, data[written:]

    def _symlink(self, entry: tarfile.TarInfo, path: list[bytes], attributes: _Attributes) -> None:
        target = tapes.raw(entry.linkname)
        if not target or b"\0" in target or len(target) > 4095:
            raise self._refusal(entry, "a symbolic link to an impossible name")
        parent, _ = self._clear(path)
        os.symlink(target, path[-1], dir_fd=parent)
        self._set_at(parent, path[-1], attributes, mode=False)

    def _hardlink(self, entry: tarfile.TarInfo, path: list[bytes]) -> None:
        target = self._names(entry, entry.linkname)
        if target == path:
            return
        if not target:
            raise self._refusal(entry, "a hard link to the root")
        try:
            there = os.stat(target[-1], dir_fd=self._existing(target[:-1]), follow_symlinks=False)
        except OSError as error:
            raise self._refusal(entry, f"a hard link to {shown(entry.linkname)}: {_reason(error)}") from None
        if stat.S_ISDIR(there.st_mode) or _is_whiteout(there):
            raise self._refusal(entry, f"a hard link to {shown(entry.linkname)}, which is a directory or a whiteout")
        parent, _ = self._clear(path)
        parent = os.dup(parent)
        try:
            source = self._existing(target[:-1])
            os.link(target[-1], path[-1], src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise self._refusal(entry, f"a hard link to {shown(entry.linkname)}, which it replaces") from None
        finally:
            os.close(parent)

    def _existing(self, folders: list[bytes]) -> int:
        here = self._cursor.at(folders)
        for name in folders[self._cursor.depth :]:
            here = self._cursor.enter(name)
        return self._cursor.here if here is None else here

    def _special(self, entry: tarfile.TarInfo, path: list[bytes], attributes: _Attributes) -> None:
        device = 0
        if not entry.isfifo():
            if not (0 <= entry.devmajor < 1 << 12 and 0 <= entry.devminor < 1 << 20):
                raise self._refusal(entry, "no such device number")
            device = os.makedev(entry.devmajor, entry.devminor)
            if device == 0:
                raise self._refusal(entry, "device 0:0 is overlayfs' whiteout, not a device", "a layer says it with .wh. files")
        kind = stat.S_IFIFO if entry.isfifo() else stat.S_IFCHR if entry.ischr() else stat.S_IFBLK
        parent, _ = self._clear(path)
        try:
            os.mknod(path[-1], kind | 0o600, device, dir_fd=parent)
        except PermissionError:
            if entry.isfifo():
                raise
            return
        self._set_at(parent, path[-1], attributes, mode=True)

    # Whiteouts

    def _whiteout(self, entry: tarfile.TarInfo, folders: list[bytes], hidden: bytes, name: bytes) -> None:
        if name in _AUFS:
            if not entry.isdir() and entry.size:
                raise self._refusal(entry, "a whiteout is an empty file")
            return
        if not (entry.isreg() or entry.islnk()) or entry.size:
            raise self._refusal(entry, "a whiteout is an empty file")
        if name == b".wh..wh..opq":
            if not folders:
                raise self._refusal(entry, "it hides the root of the layers below, which overlayfs can't")
            self._hide_below(folders)
        elif hidden in (b"", b".", b"..") or name.startswith(_META):
            raise self._refusal(entry, "a whiteout of nothing that can be hidden")
        else:
            parent = self._parent(folders)
            try:
                os.mknod(hidden, _WHITEOUT, 0, dir_fd=parent)
            except FileExistsError:  # of this layer, so it stays; but a directory must not show what is below it
                if stat.S_ISDIR(os.stat(hidden, dir_fd=parent, follow_symlinks=False).st_mode):
                    self._hide_below([*folders, hidden])

    def _hide_below(self, path: list[bytes]) -> None:
        os.setxattr(self._parent(path), self._opaque, b"y")

    # Metadata

    def _set(self, fd: int, attributes: _Attributes) -> None:
        """Owner first: chown(2) clears setuid bits and capabilities. Time last."""
        if self._is_root:
            os.chown(fd, attributes.uid, attributes.gid)
        os.chmod(fd, attributes.mode)
        for name, value in attributes.xattrs:
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno != errno.ENOTSUP or not name.startswith("user."):  # tmpfs before 6.6 has no user.*
                    raise
        os.utime(fd, ns=(attributes.mtime, attributes.mtime))

    def _set_at(self, parent: int, name: bytes, attributes: _Attributes, *, mode: bool) -> None:
        """For what can't be opened. The name was just made by us, and is no symbolic link where ``mode`` is set."""
        if self._is_root:
            os.chown(name, attributes.uid, attributes.gid, dir_fd=parent, follow_symlinks=False)
        if mode:
            os.chmod(name, attributes.mode, dir_fd=parent)
        os.utime(name, ns=(attributes.mtime, attributes.mtime), dir_fd=parent, follow_symlinks=False)

    def _finish(self, path: tuple[bytes, ...], attributes: _Attributes) -> None:
        try:
            fd = self._existing(list(path))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # replaced later on
                return
            raise
        if attributes.implied:
            self.implied.append(path)
        elif path:
            self.describes = True
        self._set(fd, attributes)


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _reason(error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "its path goes through something that is not a directory of the layer (a symbolic link?)"
    return f"{error.strerror or error} [{errno.errorcode.get(error.errno or 0, error.errno)}]"
