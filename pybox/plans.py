"""Plans kept for the next pybox: a command line that is typed again is not parsed, resolved, planned and lowered again.

    <state>/plans/HASH      marshal of: what was typed and where, what must still be so, and the plan, ready to launch

A plan depends on the words up to the command's name, the working directory, the facts of the host, the image and the kind of what
is bound; on nothing else, for which `conditions` answers. All of it is compared before a plan is used again, and whatever differs is
planned anew. The command's arguments are put in afterwards: they are what differs between the jobs of a loop in a shell.
Only an installed pybox keeps plans, and only for itself: its build is among what must be the same.
"""

from __future__ import annotations

import marshal
import posix as os
import sys
from _imp import source_hash

from pybox import bundle, native
from pybox.paths import encode, kind, make_dirs
from pybox.ready import Ready
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pybox.dirs import Dirs
    from pybox.host import Facts
    from pybox.spec import Spec

    Steps = tuple[tuple[str, str, tuple[object, ...]], ...]  # (module, class, fields)

_MOST = 500  # plans that are kept; one has some 10 KB
_FIELDS = tuple(field for field in Ready._fields if field not in ("program", "prepare"))


class Typed(Record):
    """What a foreground run is told by its command line beside the container, and what it says at its end."""

    timeout: float | None
    keep: bool
    name: str
    memory: int | None


class Kept(Record):
    """A plan as it was read: not revived yet, for it may not be true any more."""

    facts: tuple[object, ...]
    link: str  # of the image's tag
    target: str | None
    sources: tuple[tuple[str, int | None], ...]  # (path, kind of file) of what is bound
    typed: Typed
    program: tuple[Any, ...]
    steps: Steps
    rest: tuple[object, ...]
    arguments: list[str] | None  # of the command, as typed now; None where the command is the image's own

    def revive(self, facts: Facts) -> Ready | None:
        """Return the plan, if all is as it was when it was made."""
        if self.facts != _plain(facts) or _target(self.link) != self.target:
            return None
        if any(kind(source) != mode for source, mode in self.sources):
            return None
        prepare = tuple(_class(module, name)(*values) for module, name, values in self.steps)
        fields: dict[str, Any] = dict(zip(_FIELDS, self.rest, strict=True))
        program = native.Program(*self.program)
        if self.arguments is not None:
            asked = fields["asked"]
            name, *before = asked["args"]
            if before != self.arguments:
                words = fields["words"]
                fields["words"] = (*words[: len(words) - len(before)], *self.arguments)
                fields["asked"] = {**asked, "args": [name, *self.arguments]}
                program = program.with_words(fields["words"], fields["init"])
        return Ready.of({**fields, "program": program, "prepare": prepare})


def conditions(dirs: Dirs, spec: Spec, facts: Facts) -> tuple[object, ...] | None:
    """Return what a plan depends on, to be asked before it is made; None for one that depends on more than can be said."""
    from pybox.image import store

    link = store.link(dirs, spec.image)
    target = _target(link) if link is not None else None  # the host's root has none, and users who may change at any time
    if (
        not bundle.ID
        or target is None
        or spec.system
        or spec.network not in ("none", "host")  # networks, name servers, other containers
        or spec.seccomp not in ("", "default", "unconfined")
        or any(mount.image or mount.anonymous for mount in spec.mounts)  # another image, a new volume each time
    ):
        return None
    sources = tuple((mount.source, kind(mount.source)) for mount in spec.mounts if mount.source is not None)
    return _plain(facts), link, target, sources


def recall(dirs: Dirs, words: list[str]) -> Kept | None:
    """Return the plan of a command line that was typed before, with these arguments or others."""
    try:
        folder = os.open(_folder(dirs), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(folder)
        # what we have written there ourselves: where a stranger may make the directory first (/tmp), it is not believed
        return _find(folder, _here(dirs), words) if status.st_uid == os.geteuid() and not status.st_mode & 0o077 else None
    finally:
        os.close(folder)


def _find(folder: int, here: tuple[str | int, ...], words: list[str]) -> Kept | None:
    for count, name in enumerate(_names(here, words), 1):  # where the command begins is not known without the table of options
        try:
            found: Any = marshal.loads(_read(folder, name))
        except (OSError, ValueError, EOFError, TypeError):
            continue
        if not isinstance(found, tuple) or found[0] != (*here, *words[:count]) or (count < len(words) and not found[1]):
            continue
        facts, link, target, sources = found[2]
        program, steps, rest = found[4]
        arguments = words[count:] if found[1] else None
        return Kept(facts, link, target, sources, Typed(*found[3]), program, steps, rest, arguments)
    return None


def _names(here: tuple[str | int, ...], words: list[str]) -> Iterator[str]:
    """Yield the file names of the plans for the first word, the first two, and so on to all."""
    number = repr(here).encode()
    for word in words:
        number = source_hash(0, number + encode(word))  # of the import system: a hash that is loaded already
        yield number.hex()


def _read(folder: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def remember(dirs: Dirs, words: list[str], arguments: int | None, known: tuple[object, ...], typed: Typed, ready: Ready) -> None:
    """Keep a plan that was launched. A full or read-only disk is no reason to complain.

    Args:
        arguments: how many of the words are the command's arguments; None where it has the image's own command.
        known: its conditions.
    """
    here, words = _here(dirs), words[: len(words) - (arguments or 0)]
    *_, name = _names(here, words)
    steps = tuple((type(step).__module__, type(step).__name__, _plain(step)) for step in ready.prepare)
    rest = tuple(getattr(ready, field) for field in _FIELDS)
    plan: Any = (_plain(ready.program), steps, rest)
    path = f"{_folder(dirs)}/{name}"  # of two with one name the last is kept
    new = f"{path}.{os.getpid()}"
    try:
        make_dirs(_folder(dirs), 0o700)
        _make_room(_folder(dirs))
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            value: Any = ((*here, *words), arguments is not None, known, _plain(typed), plan)
            os.write(fd, marshal.dumps(value))
        finally:
            os.close(fd)
        os.rename(new, path)  # of what is cut off by a full disk nothing is believed: marshal notices
    except (OSError, ValueError):
        pass


def _make_room(folder: str) -> None:
    names = os.listdir(folder)
    if len(names) >= _MOST:
        for name in names:
            os.unlink(f"{folder}/{name}")


def _here(dirs: Dirs) -> tuple[str | int, ...]:
    try:
        place = os.getcwd()
    except FileNotFoundError:  # it was removed
        place = ""
    return bundle.ID, os.geteuid(), dirs.store, dirs.state, place


def _folder(dirs: Dirs) -> str:
    return f"{dirs.state}/plans"


def _plain(record: Record) -> Any:
    return tuple(_plain(value) if isinstance(value, Record) else value for _, value in record.items())


def _class(module: str, name: str) -> type[Record]:
    __import__(module)
    found: type[Record] = getattr(sys.modules[module], name)
    return found


def _target(link: str) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None
