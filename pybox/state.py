"""The record of a container that somebody looks after: /run/pybox/ID. Claim by mkdir, journal before effects, one lock each.

    ID/journal      one line of JSON: who and what, and what undoing needs; written before the first effect.
                    Later a second line: the host's pid of process 1
    ID/attach       the socket of pybox-monitor, of a container that it looks after
    ID/restarts     how often it was started again, and while it waits for that, there is no journal
    ID/health       how it is, if that is checked (health.py)
    ID/hosts        its hosts file, if it is on a network (network/names.py), whose claims are in net/ and ports/ beside (pool.py)

The owner holds flock(2) on the directory for as long as it lives, and removes it when the container has ended. Who can take
the lock may conclude that the owner is dead: no pid is compared, none can be reused. There is no lock over all containers and
nothing is synced: what a crash of the machine loses is the record of processes that it has ended too. What a container is, and
how it ended, outlives that in the store (kept.py); so do the names:

    <store>/names/NAME    a symlink to the id: a name is taken exactly as long as it is there and its container is
"""

from __future__ import annotations

import posix as os

from pybox import fastjson
from pybox.dirs import Dirs, ensure
from pybox.errors import SpecError, StateError
from pybox.paths import exists, is_dir
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

_FILES = ("attach", "restarts", "health", "health.new", "hosts", "shared", "pasta.pid")  # of a record, beside the journal
STUCK = ": cannot clean up: "  # in a line of sweep
_TRIES = 500  # of 2 ms, for a lock that is held for a moment only
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
        except BaseException:
            os.rmdir(path)
            os.close(fd)
            raise
    return taken


def claim_again(dirs: Dirs, identity: str) -> Claim:
    """Claim the id of a kept container that is to be started, whose lock (kept.lock) is the caller's. Raises StateError.

    What its last owner has left is undone first.
    """
    from time import sleep

    from pybox import burial

    path = f"{dirs.state}/{identity}"
    for _ in range(_TRIES):
        try:
            os.mkdir(path, 0o700)
        except FileNotFoundError:
            ensure(dirs.state)
            continue
        except FileExistsError:
            pass
        fd = take(path)
        if fd is not None and exists(f"{path}/journal"):
            try:
                burial.bury(dirs, identity)
            finally:
                os.close(fd)
        elif fd is not None:
            forget_run(path)
            return Claim(identity, path, fd)
        sleep(0.002)  # somebody looks whether it is locked
    raise StateError(f"container {identity} is running", "or another command is at it")


def claim_dead(dirs: Dirs, identity: str) -> int | None:
    """Take the lock of a record whose owner is gone, to remove it; returns its fd, None if there is none. Raises StateError."""
    from time import sleep

    path = f"{dirs.state}/{identity}"
    for _ in range(_TRIES):
        fd = take(path)
        if fd is not None or not is_dir(path):
            return fd
        sleep(0.002)
    raise StateError(f"container {identity} is busy with another command", "try again in a moment")


def take(path: str) -> int | None:
    """Return an fd of a record, locked; None when it is gone or somebody has the lock."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if _lock(fd) and os.fstat(fd).st_nlink > 0:
        return fd
    os.close(fd)
    return None


def forget_run(path: str) -> None:
    """Remove the files of a run from a record."""
    try:
        found = os.listdir(path)
    except FileNotFoundError:
        return
    for file in (*_FILES, "journal"):  # the journal last: while it is there, the rest can be found
        if file in found:
            try:
                os.unlink(f"{path}/{file}")
            except FileNotFoundError:
                pass


def reserve(dirs: Dirs, identity: str, name: str) -> None:
    """Take a name for a container. Raises StateError when another has it."""
    folder = ensure(f"{dirs.store}/names")
    while True:
        try:
            os.symlink(identity, f"{folder}/{name}")
            return
        except FileExistsError:
            other = free_if_left(dirs, name)
        if other:
            raise StateError(
                f"the name {name!r} is taken by container {other}", f"remove it: pybox rm {name}, or choose another name"
            )


def free_if_left(dirs: Dirs, name: str) -> str:
    """Remove a name whose container is gone (killed between the two removals); return the container it has otherwise.

    Under a lock on the names: of two who find it so, the second would remove what the first has put there meanwhile.
    """
    from pybox.undo import undo

    try:
        fd = os.open(f"{dirs.store}/names", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        _lock(fd, wait=True)
        taken = os.readlink(f"{dirs.store}/names/{name}")
        if is_dir(f"{dirs.state}/{taken}") or is_dir(f"{dirs.store}/containers/{taken}"):
            return taken
        undo("unlink", f"{dirs.store}/names/{name}")
    except FileNotFoundError:
        pass
    finally:
        os.close(fd)
    return ""


def open_journal(taken: Claim, value: Json) -> int:
    """Write the journal; returns its fd, for the pid that will follow. Raises OSError, with nothing of it left."""
    path = f"{taken.path}/journal"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, fastjson.dumps(value).encode() + b"\n", path)
    except OSError:
        os.close(fd)
        os.unlink(path)
        raise
    return fd


def write_file(taken: Claim, name: str, text: str) -> None:
    """Write one file of a record. Raises OSError."""
    fd = os.open(f"{taken.path}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, text.encode(), f"{taken.path}/{name}")
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes, path: str) -> None:
    """Write all of it. Raises OSError that names the path, also when the disk is full after a part of it."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def release(taken: Claim) -> None:
    """Give the claim up, and the record with it."""
    remove_record(taken.path)
    os.close(taken.lock)


def remove_record(path: str) -> None:
    """Remove a record, whose lock is the caller's."""
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


def names(dirs: Dirs) -> list[tuple[str, str]]:
    """Return (name, id) of all names that are taken."""
    try:
        found = os.listdir(f"{dirs.store}/names")
    except FileNotFoundError:
        return []
    return [(name, taken) for name in found if (taken := holder(dirs, name))]


def holder(dirs: Dirs, name: str) -> str:
    """Return the id of the container that has a name, "" if none has."""
    try:
        return os.readlink(f"{dirs.store}/names/{name}")
    except OSError:
        return ""


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
        fd = take(f"{dirs.state}/{identity}")
        if fd is not None:
            from pybox import burial  # who finds no dead pays nothing for it

            try:
                done += burial.found_dead(dirs, identity)
            except (OSError, ValueError) as error:  # the others are not to suffer
                done.append(f"{identity}{STUCK}{error}")
            finally:
                os.close(fd)
    kept = _kept(dirs)  # after the burials, which remove some
    for identity in uppers:
        if is_id(identity) and identity not in kept and not is_dir(f"{dirs.state}/{identity}"):
            from pybox.undo import undo

            undo("tree", f"{dirs.uppers}/{identity}")  # the machine was rebooted: /run is empty, the disk is not
            done.append(f"removed the writable layer of {identity}")
    for name, identity in names(dirs):
        if identity not in kept and not is_dir(f"{dirs.state}/{identity}") and not free_if_left(dirs, name):
            done.append(f"freed the name {name}")
    return done


def _kept(dirs: Dirs) -> frozenset[str]:
    try:
        return frozenset(os.listdir(f"{dirs.store}/containers"))
    except FileNotFoundError:
        return frozenset()
