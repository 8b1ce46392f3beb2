"""The record of a container: /run/pybox/ID. Claim by mkdir, journal before effects, one lock per container, sweep.

    ID/journal      one line of JSON: who and what, and what undoing needs; written before the first effect.
                    Later a second line: the host's pid of process 1
    ID/result       one JSON object: how it ended; only of containers that are kept (no --rm)
    ID/attach       the socket of pybox-monitor, of a container that it looks after
    ID/health       how it is, if that is checked (health.py)
    ID/restarts     how often it was started again, and while it waits for that, no pid is in the journal
    names/NAME      a symlink to the id: a name is taken exactly as long as it is there

The owner holds flock(2) on the directory for as long as it lives. Who can take the lock may conclude that the owner is dead:
no pid is compared, none can be reused. There is no lock over all containers and nothing is synced: what a crash of the machine
loses is the record of processes that it has ended too.
"""

from __future__ import annotations

import os

from pybox import fastjson
from pybox.dirs import Dirs, ensure
from pybox.errors import SpecError, StateError
from pybox.host import read
from pybox.record import Record
from pybox.undo import VERBS, undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

_FILES = ("result", "attach", "restarts", "health", "health.new")  # of a record, beside the journal
STUCK = ": cannot clean up: "  # in a line of sweep
_LOCK_EX, _LOCK_NB = 2, 4  # flock(2); the fcntl module's names for them cost its import


class Claim(Record):
    """A claimed id. ``lock`` is an fd of its directory, locked; closing it gives the claim up."""

    identity: str
    path: str
    lock: int


def new_id() -> str:
    """Return a random id, 12 hexadecimal digits as docker shows them."""
    return os.urandom(6).hex()


def is_id(name: str) -> bool:
    """Return whether a file name has the form of an id."""
    return len(name) == 12 and all(c in "0123456789abcdef" for c in name)


def check_name(name: str) -> str:
    """Return a container's name if it can be one. Raises SpecError."""
    plain = name.replace("_", "").replace(".", "").replace("-", "")
    if not (name.isascii() and plain.isalnum() and name[0].isalnum() and len(name) <= 128):
        raise SpecError("name", name, "must be letters, digits, '_', '.' and '-', beginning with a letter or digit")
    if is_id(name):
        raise SpecError("name", name, "has the form of an id, and would be taken for one")
    return name


def _lock(fd: int, wait: bool = False) -> bool:
    from fcntl import flock

    try:
        flock(fd, _LOCK_EX if wait else _LOCK_EX | _LOCK_NB)
    except BlockingIOError:
        return False
    return True


def claim(dirs: Dirs, name: str = "") -> Claim:
    """Claim a new id, and a name for it. Raises StateError when the name is taken."""
    for _ in range(100):
        identity = new_id()
        path = f"{dirs.state}/{identity}"
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            continue
        except FileNotFoundError:
            ensure(dirs.state)
            continue
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # swept between mkdir and open
        if _lock(fd) and os.fstat(fd).st_nlink > 0:  # else a sweeper was quicker and has taken it for a dead one
            break
        os.close(fd)
    else:
        raise StateError(f"cannot claim an id in {dirs.state}")
    taken = Claim(identity, path, fd)
    if name:
        try:
            reserve(dirs, identity, name)
        except StateError:
            os.rmdir(path)
            os.close(fd)
            raise
    return taken


def claim_again(dirs: Dirs, identity: str) -> Claim:
    """Claim the id of a kept container that is to be started: the record of its last run is forgotten. Raises StateError."""
    path = ensure(f"{dirs.state}/{identity}")
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if not _lock(fd) or os.fstat(fd).st_nlink == 0:
        os.close(fd)
        raise StateError(f"container {identity} is running", "or another command is at it")
    forget_run(path)
    return Claim(identity, path, fd)


def claim_dead(dirs: Dirs, identity: str) -> int:
    """Take the lock of a record whose owner is gone, to remove it; returns its fd. Raises StateError when somebody has it."""
    fd = os.open(f"{dirs.state}/{identity}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if not _lock(fd):
        os.close(fd)
        raise StateError(f"container {identity} is busy with another command")
    return fd


def forget_run(path: str) -> None:
    """Remove the files of a run from a record."""
    for file in (*_FILES, "journal"):  # the journal last: while it is there, the rest can be found
        try:
            os.unlink(f"{path}/{file}")
        except FileNotFoundError:
            pass


def reserve(dirs: Dirs, identity: str, name: str) -> None:
    """Take a name for a container. Raises StateError when another has it."""
    names = ensure(f"{dirs.state}/names")
    while True:
        try:
            os.symlink(identity, f"{names}/{name}")
            return
        except FileExistsError:
            holder = _free_if_left(dirs, name)
        if holder:
            raise StateError(
                f"the name {name!r} is taken by container {holder}", f"remove it: pybox rm {name}, or choose another name"
            )


def _free_if_left(dirs: Dirs, name: str) -> str:
    """Remove a name whose container is gone (killed between the two removals); return the container it has otherwise.

    Under a lock on the names: of two who find it so, the second would remove what the first has put there meanwhile.
    """
    fd = os.open(f"{dirs.state}/names", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(fd, wait=True)
        holder = os.readlink(f"{dirs.state}/names/{name}")
        if os.path.isdir(f"{dirs.state}/{holder}") or os.path.isdir(f"{dirs.store}/containers/{holder}"):
            return holder
        undo("unlink", f"{dirs.state}/names/{name}")
    except FileNotFoundError:
        pass
    finally:
        os.close(fd)
    return ""


def open_journal(taken: Claim, value: Json) -> int:
    """Write the journal; returns its fd, for the pid that will follow."""
    fd = os.open(f"{taken.path}/journal", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.write(fd, fastjson.dumps(value).encode() + b"\n")
    return fd


def write_result(taken: Claim, value: Json) -> None:
    """Record how a kept container ended."""
    write_file(taken, "result", fastjson.dumps(value))


def write_file(taken: Claim, name: str, text: str) -> None:
    """Write one file of a record."""
    fd = os.open(f"{taken.path}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def release(taken: Claim, keep: bool = False) -> None:
    """Give the claim up; the record goes too, unless it is kept for `ps -a`."""
    if not keep:
        _remove_record(taken.path)
    os.close(taken.lock)


def _remove_record(path: str) -> None:
    forget_run(path)
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError:  # what another version of pybox has put there goes too
        for file in os.listdir(path):
            os.unlink(f"{path}/{file}")
        os.rmdir(path)


def parse(text: str) -> dict[str, Json] | None:
    try:
        value = fastjson.loads(text) if text else None
    except ValueError:  # cut off by the death of its writer
        return None
    return value if isinstance(value, dict) else None


def names_by_id(dirs: Dirs) -> dict[str, str]:
    try:
        found = os.listdir(f"{dirs.state}/names")
    except FileNotFoundError:
        return {}
    names = {}
    for name in found:
        try:
            names[os.readlink(f"{dirs.state}/names/{name}")] = name
        except OSError:
            pass
    return names


def sweep(dirs: Dirs) -> list[str]:
    """Undo what killed pyboxes left behind; returns a line for each thing done. Containers that are kept or alive stay."""
    done: list[str] = []
    try:
        uppers = os.listdir(dirs.uppers)  # before the states: an upper is made after its state is claimed
    except FileNotFoundError:
        uppers = []
    try:
        found = [name for name in os.listdir(dirs.state) if is_id(name)]
    except FileNotFoundError:
        found = []
    for identity in found:
        fd = _take_dead(f"{dirs.state}/{identity}")
        if fd is not None:
            try:
                done += bury(dirs, identity)
            except (OSError, ValueError) as error:  # the others are not to suffer
                done.append(f"{identity}{STUCK}{error}")
            finally:
                os.close(fd)
    kept = _kept(dirs)  # after the burials, which remove some
    for identity in uppers:
        if is_id(identity) and identity not in kept and not os.path.isdir(f"{dirs.state}/{identity}"):
            undo("tree", f"{dirs.uppers}/{identity}")  # the machine was rebooted: /run is empty, the disk is not
            done.append(f"removed the writable layer of {identity}")
    for identity, name in names_by_id(dirs).items():
        if identity not in kept and not os.path.isdir(f"{dirs.state}/{identity}") and not _free_if_left(dirs, name):
            done.append(f"freed the name {name}")
    return done


def _take_dead(path: str) -> int | None:
    """Return the lock of a record whose owner is dead and that nobody wants to keep."""
    if os.path.exists(f"{path}/result"):
        return None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if _lock(fd) and os.fstat(fd).st_nlink > 0 and not os.path.exists(f"{path}/result"):
        return fd
    os.close(fd)
    return None


def _kept(dirs: Dirs) -> frozenset[str]:
    try:
        return frozenset(os.listdir(f"{dirs.store}/containers"))
    except FileNotFoundError:
        return frozenset()


def bury(dirs: Dirs, identity: str, forget: bool = False) -> list[str]:
    """Undo what a container without a living owner has left; returns a line for each thing done. Raises OSError, ValueError.

    A kept one that pybox-monitor looked after stays, with a record that says that nobody saw its end; ``forget`` removes it too.
    """
    path = f"{dirs.state}/{identity}"
    journal = parse(read(f"{path}/journal").partition("\n")[0]) or {}
    leaves = journal.get("leaves", [])
    done = []
    if not isinstance(leaves, list) or not all(isinstance(leaf, list) and len(leaf) == 2 and leaf[0] in VERBS for leaf in leaves):
        raise ValueError(f"its journal is of another version of pybox: {path}/journal")
    keep = bool(journal.get("kept")) and not forget
    for leaf in reversed(leaves):
        assert isinstance(leaf, list)
        verb, target = str(leaf[0]), str(leaf[1])
        if keep and verb == "tree":
            continue
        if os.path.lexists(target):
            done.append(f"{identity}: removed {target}")
        undo(verb, target)
    if keep:
        lost: dict[str, Json] = {
            "schema": "pybox.result/1",
            "id": identity,
            "reason": "lost",
            "exit_code": 137,
            "error": "its pybox was killed",
        }
        write_result(Claim(identity, path, -1), lost)
        return [*done, f"{identity}: its pybox was killed; kept as it is"]
    _remove_record(path)
    return [*done, f"{identity}: its pybox was killed; forgotten"]
