"""The life of a container that nobody waits for: create, start, stop, kill, remove, rename. monitor.py is what looks after it.

A signal goes to process 1 through a pidfd that is opened first and believed second: only if the container's owner still holds
its lock, and the process is that owner's child, is the number not somebody else's by now.
"""

from __future__ import annotations

import os

from pybox import kept, listing, monitor, state
from pybox.dirs import Dirs
from pybox.errors import PyboxError, StateError
from pybox.host import read
from pybox.kept import Kept
from pybox.listing import Entry
from pybox.runtime import Runtime
from pybox.spec import parse_signal
from pybox.undo import kill_group, undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

GRACE = 10.0  # seconds between the stop signal and SIGKILL, as docker
_PATIENCE = 30.0  # seconds for the end of a killed container to be recorded


def create(runtime: Runtime, what: Kept) -> Kept:
    """Plan a container, so that what can't be is refused now, and write down what it is. Raises a PyboxError; then nothing is left."""
    from time import time

    ready = runtime.planner.ready(what.spec, keep=True, managed=True)
    image = ready.given.image
    runtime.make_once(ready.given)
    spec = ready.given.spec.replace(image=what.spec.image)  # with all that --system means
    what = what.replace(spec=spec, image_id=image.id, layers=image.layers, created=time())
    if what.name:
        state.reserve(runtime.dirs, what.identity, what.name)
    try:
        kept.write(runtime.dirs, what)
    except BaseException:
        forget(runtime.dirs, what.identity, what.name)
        raise
    return what


def forget(dirs: Dirs, identity: str, name: str) -> None:
    """Remove what is kept of a container that does not run."""
    undo("tree", f"{dirs.uppers}/{identity}")
    undo("tree", kept.folder(dirs, identity))
    if name:
        undo("unlink", f"{dirs.state}/names/{name}")


def start(dirs: Dirs, what: Kept, client: int = -1, owned: bool = False) -> int:
    """Start a kept container under a monitor of its own; returns the monitor's pid when the command runs.

    The monitor is our child until we end. Raises the PyboxError of a launch that failed, StateError when it runs already.
    ``client`` is an attached client's socket from the start, ``owned``: the container dies with it.
    """
    import pickle

    kept.mark_stopped(dirs, what.identity, stopped=False)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            _leave_the_caller(keep=(writer, client))
            monitor.become(Runtime(dirs), what, state.claim_again(dirs, what.identity), client, owned, writer)
        except BaseException as error:
            os.write(writer, b"!" + pickle.dumps(error if isinstance(error, (PyboxError, OSError)) else PyboxError(repr(error))))
        finally:
            os._exit(125)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read()
    if said == b"started":
        return pid
    os.waitpid(pid, 0)
    failure = said.partition(b"!")[2]
    raise pickle.loads(failure) if failure else StateError(f"container {what.identity}: its monitor was killed while it started")


def _leave_the_caller(keep: tuple[int, ...]) -> None:
    """Give up the caller's session, directory and fds: the monitor outlives all of them."""
    os.setsid()
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    low = 3
    for fd in sorted({fd for fd in keep if fd >= 3}):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 1 << 20 if low < 1 << 20 else low)


def pidfd(entry: Entry) -> int:
    """Return a pidfd of a container's process 1. Raises StateError when it does not run (any more)."""
    missing = StateError(f"container {entry.identity} is not running", f"it is {entry.status}; `pybox start` starts it")
    if entry.pid is None:
        raise missing
    try:
        fd = os.pidfd_open(entry.pid)
    except ProcessLookupError:
        raise missing from None
    owner = str(entry.journal.get("owner"))
    parent = read(f"/proc/{entry.pid}/stat").rpartition(")")[2].split()[1:2]
    if parent != [owner] or not listing.owner_lives(entry.path):
        os.close(fd)
        raise missing
    return fd


def signal(entry: Entry, number: int) -> None:
    """Send a signal to process 1, which passes it on to the command. Raises StateError when it does not run."""
    from signal import pidfd_send_signal

    fd = pidfd(entry)
    try:
        if number == 9:  # all of them, also in the host's PID namespace, and frozen or not
            for controller, path in entry.groups:
                if controller == "":
                    try:
                        kill_group(path)
                    except OSError:
                        pass
        pidfd_send_signal(fd, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)


def stop_signal(dirs: Dirs, entry: Entry) -> int:
    """Return what asks a container to end: its own, its image's, or SIGTERM."""
    from pybox import specjson
    from pybox.image import store

    spec = specjson.from_json(entry.journal["spec"]) if "spec" in entry.journal else listing.config(dirs, entry).spec
    text = spec.stop_signal
    if not text:
        try:
            text = store.find(dirs, str(entry.journal.get("image_id"))).config.stop_signal
        except PyboxError:
            text = ""
    return parse_signal(text) if text else 15


def stop(dirs: Dirs, entry: Entry, grace: float = GRACE) -> None:
    """Ask a container to end, kill it when it has not after ``grace`` seconds, and wait until its end is recorded."""
    if not entry.alive:
        return
    if os.path.isdir(kept.folder(dirs, entry.identity)):
        kept.mark_stopped(dirs, entry.identity, stopped=True)
    ended = entry.pid is None  # it waits for its next start
    if not ended:
        try:
            signal(entry, stop_signal(dirs, entry))
            thaw(entry)
            ended = listing.wait_for_owner(entry.path, grace)
            if not ended:
                signal(entry, 9)
        except StateError:  # it was quicker
            pass
    wait_recorded(entry)


def thaw(entry: Entry) -> None:
    """Let a frozen container go on, so that it can hear a signal."""
    for controller, path in entry.groups:
        if controller == "" and entry.status == "paused":
            try:
                with open(f"{path}/cgroup.freeze", "w") as file:
                    file.write("0")
            except OSError:
                pass


def wait_recorded(entry: Entry) -> None:
    """Wait for the record of the end of a container that was ended. Raises StateError when it does not come."""
    if not listing.wait_for_owner(entry.path, _PATIENCE):
        raise StateError(f"container {entry.identity} does not end", "a process of it may hang in the kernel; try again later")


def remove(dirs: Dirs, entry: Entry, force: bool = False) -> None:
    """Remove a container; one that runs only with ``force``, which kills it. Raises StateError or PyboxError."""
    if entry.alive:
        if not force:
            raise StateError(f"container {entry.identity} is {entry.status}", "stop it first, or: pybox rm -f")
        kill(dirs, entry)
        again = listing.load(dirs, entry.identity, entry.name)
        if again is None:
            return  # it was started with --rm
        entry = again
    if os.path.isdir(entry.path):
        claim = state.claim_dead(dirs, entry.identity)
        try:
            state.bury(dirs, entry.identity, forget=True)
        except OSError as error:
            raise PyboxError(f"cannot remove container {entry.identity}: {error.strerror}: {error.filename}") from None
        except ValueError as error:
            raise PyboxError(f"cannot remove container {entry.identity}: {error}") from None
        finally:
            os.close(claim)
    forget(dirs, entry.identity, entry.name)


def kill(dirs: Dirs, entry: Entry) -> None:
    """Kill a container and wait until its end is recorded; it does not start again by itself."""
    if os.path.isdir(kept.folder(dirs, entry.identity)):
        kept.mark_stopped(dirs, entry.identity, stopped=True)
    try:
        signal(entry, 9)
    except StateError:
        pass
    wait_recorded(entry)


def rename(dirs: Dirs, entry: Entry, name: str) -> None:
    """Give a kept container another name. Raises StateError when it is taken."""
    state.check_name(name)
    if name == entry.name:
        return
    lock = kept.lock(dirs, entry.identity)
    try:
        what = listing.config(dirs, entry)
        state.reserve(dirs, entry.identity, name)
        kept.write(dirs, what.replace(name=name))
        if entry.name:
            undo("unlink", f"{dirs.state}/names/{entry.name}")
    finally:
        os.close(lock)


def boot(dirs: Dirs) -> Iterator[tuple[Entry, PyboxError | None]]:
    """Start what is to run whenever the machine does: restart policy always, or unless-stopped and nobody has stopped it."""
    for entry in listing.entries(dirs):
        what = None if entry.alive else kept.load(dirs, entry.identity)
        if what is None or what.restart not in ("always", "unless-stopped"):
            continue
        if what.restart == "unless-stopped" and kept.is_stopped(dirs, entry.identity):
            continue
        try:
            start(dirs, what)
            yield entry, None
        except PyboxError as error:
            yield entry, error
