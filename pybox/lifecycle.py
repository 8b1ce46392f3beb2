"""The life of a container that nobody waits for: create, start, stop, kill, remove, rename. monitor.py is what looks after it.

Commands that change a container take its lock (kept.lock) and look again before they act, so two at once do one after the other.
Those that end it do not: whoever holds the lock may be waiting for just that. Nothing here waits without a limit but `wait`, and
`start` for its launch: that may be long, and what hangs in the kernel could not be killed either.
"""

from __future__ import annotations

import os

from pybox import burial, health, joining, kept, listing, monitor, native, state
from pybox.dirs import Dirs
from pybox.errors import PyboxError, StateError
from pybox.kept import Kept
from pybox.kernel.freezer import thaw
from pybox.listing import Entry
from pybox.live import pidfd
from pybox.result import verdict
from pybox.runtime import Runtime
from pybox.spec import parse_signal
from pybox.steps.base import Desk
from pybox.steps.hostside import MakeUpper
from pybox.undo import kill_group, undo

GRACE = 10.0  # seconds between the stop signal and SIGKILL, as docker
PATIENCE = 30.0  # seconds for the end of a killed container to be recorded


def create(runtime: Runtime, what: Kept) -> Kept:
    """Plan a container, so that what can't be is refused now, and write down what it is. Raises a PyboxError; then nothing is left."""
    from time import time

    runtime.make_volumes(what.spec)
    ready = runtime.planner.ready(what.spec, keep=True, managed=True)
    image = ready.given.image
    runtime.make_once(ready)
    spec = ready.given.spec.replace(image=what.spec.image)  # with all that --system means
    what = what.replace(spec=spec, image_id=image.id, layers=image.layers, created=time())
    what = what.replace(health=what.health or health.of_image(runtime.dirs, image.id))
    lock = kept.make(runtime.dirs, what.identity)
    try:
        if what.name:
            state.reserve(runtime.dirs, what.identity, what.name)
        desk = Desk(what.identity, runtime.reuse)
        for step in ready.prepare:
            if isinstance(step, MakeUpper):  # so that files can be copied into it before it starts
                step.apply(desk)
        kept.write(runtime.dirs, what)  # from here on it is there, and whole
    except BaseException:
        burial.forget(runtime.dirs, what.identity, what.name)
        raise
    finally:
        os.close(lock)
    return what


def start(dirs: Dirs, identity: str, client: int = -1, owned: bool = False) -> int:
    """Start a kept container under a monitor of its own; returns the monitor's pid when the command runs, 0 when it did already.

    The monitor is our child until we end. Raises the PyboxError of a launch that failed.
    ``client`` is an attached client's socket from the start, ``owned``: the container dies with it.
    """
    lock = kept.lock(dirs, identity)
    try:
        entry = listing.load(dirs, identity, "")
        if entry is not None and entry.alive:
            return 0
        what = kept.load(dirs, identity)
        if what is None:
            raise StateError(f"container {identity} was just removed")
        kept.mark_stopped(dirs, identity, stopped=False)
        return _start(dirs, what, lock, client, owned)
    finally:
        os.close(lock)


def _start(dirs: Dirs, what: Kept, lock: int, client: int, owned: bool) -> int:
    import pickle

    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            _leave_the_caller(keep=(lock, writer, client))
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
    raise (
        pickle.loads(failure)
        if failure
        else StateError(f"container {what.identity}: its monitor was killed while it started", "`pybox gc` cleans up")
    )


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


def kill(dirs: Dirs, entry: Entry, number: int) -> None:
    """Send a signal; who sends one that is to end the container does not want it back, whatever its policy. Raises StateError."""
    if entry.alive and (number == 9 or number == stop_signal(dirs, entry)):
        _mark(dirs, entry)
        if entry.status == "restarting":
            _hurry(entry)
            return
    signal(entry, number)


def ask_to_end(dirs: Dirs, entry: Entry, number: int | None = None) -> None:
    """Send the stop signal (or another), and see to it that it does not start again by itself; await_end is what waits."""
    _mark(dirs, entry)
    try:
        signal(entry, number or stop_signal(dirs, entry))
        if entry.status == "paused":
            thaw(entry.groups)  # so that it can hear it
    except StateError:  # it was quicker, or does not run yet or at the moment
        pass


def _mark(dirs: Dirs, entry: Entry) -> None:
    if kept.exists(dirs, entry.identity):
        try:
            kept.mark_stopped(dirs, entry.identity, stopped=True)
        except OSError:  # a full disk is no reason not to end it; if it comes back, await_end sees that
            pass


def await_end(dirs: Dirs, asked: Entry, deadline: float) -> None:
    """Wait until the end of a container that was asked to end is recorded; kill what has not ended by the deadline (monotonic).

    Raises StateError when it does not end even so.
    """
    from time import monotonic

    entry: Entry | None = asked
    heard = asked.pid
    while entry is not None and entry.alive:
        now = monotonic()
        if now > deadline + PATIENCE:
            raise StateError(
                f"container {entry.identity} does not end", "a process of it may hang in the kernel; try again later"
            )
        pause = 0.02  # it is being started, or waits to be: there is nobody yet who could be asked
        if entry.pid is not None and now >= deadline:
            ask_to_end(dirs, entry, 9)
            _hurry(entry)
            pause = 0.5
        elif entry.pid is not None and entry.pid != heard:
            ask_to_end(dirs, entry)
            heard = entry.pid
        elif entry.pid is not None:
            pause = deadline - now
        else:
            _mark(dirs, entry)
            _hurry(entry)
        if listing.wait_for_owner(entry.path, pause):
            return
        entry = listing.load(dirs, entry.identity, entry.name)


def _hurry(entry: Entry) -> None:
    """Tell the monitor to wait no longer: for the next start, or for a client that does not take the last output."""
    try:
        with joining.connect(entry.path) as connection:
            connection.send(bytes([native.number("PB_K_HURRY")]))
    except (OSError, StateError):
        pass


def stop(dirs: Dirs, entry: Entry, grace: float = GRACE) -> None:
    """Ask a container to end, kill it when it has not after ``grace`` seconds, and wait until its end is recorded."""
    from time import monotonic

    if entry.alive:
        ask_to_end(dirs, entry)
        await_end(dirs, entry, monotonic() + grace)


def wait(dirs: Dirs, entry: Entry) -> int:
    """Wait until a container has ended; returns its exit status. Raises StateError when nobody recorded it."""
    what = kept.plain(dirs, entry.identity) or {}
    if entry.status == "created" and not entry.alive:
        return 0  # as docker
    if entry.alive and what.get("remove"):  # its result goes with it: only its monitor can tell
        return _wait_beside(entry)
    listing.wait_for_owner(entry.path, None)
    after = listing.load(dirs, entry.identity, entry.name)
    if after is not None and after.status == "dead" and kept.exists(dirs, entry.identity):
        return 137  # what gc will write down
    code = (after.result or {}).get("exit_code") if after is not None else None
    if isinstance(code, int):
        return code
    raise StateError(
        f"container {entry.identity} is gone", "nobody recorded how it ended: it was removed, or its pybox was killed"
    )


def _wait_beside(entry: Entry) -> int:
    from struct import unpack

    status = None
    try:
        with joining.connect(entry.path) as connection:
            connection.send(bytes([native.number("PB_K_QUIET")]))
            while message := connection.recv(64 << 10):
                if message[0] == native.number("PB_K_ENDED"):
                    (status,) = unpack("i", message[1:5])
                    break
    except (OSError, StateError):
        pass
    if status is None:
        raise StateError(f"container {entry.identity} is gone", "it was started with --rm, and had ended already or was killed")
    listing.wait_for_owner(entry.path, PATIENCE)
    return verdict(status, False, 0)[1]


def remove(dirs: Dirs, entry: Entry, force: bool = False, *, volumes: bool = False) -> None:
    """Remove a container; one that runs only with ``force``, which kills it. With ``volumes``, those without a name, too.

    Raises StateError or PyboxError.
    """
    what = kept.load(dirs, entry.identity) if volumes else None
    _remove_when_ended(dirs, entry, force)
    if what is not None and any(mount.anonymous for mount in what.spec.mounts):
        from pybox.volumes import leave

        leave(dirs, what.spec)


def _remove_when_ended(dirs: Dirs, entry: Entry, force: bool) -> None:
    from time import monotonic

    for _ in range(5):
        if entry.alive:
            if not force:
                raise StateError(f"container {entry.identity} is {entry.status}", "stop it first, or: pybox rm -f")
            ask_to_end(dirs, entry, 9)
            await_end(dirs, entry, monotonic())
        again = listing.load(dirs, entry.identity, entry.name)
        if again is None:
            return None  # it was started with --rm
        is_kept = os.path.isdir(kept.folder(dirs, entry.identity))
        lock = kept.lock(dirs, entry.identity) if is_kept else -1
        try:
            looked = listing.load(dirs, entry.identity, entry.name)
            if looked is None or not looked.alive:
                return _remove(dirs, looked or entry)
            entry = looked  # somebody has started it meanwhile
        finally:
            if lock >= 0:
                os.close(lock)
    raise StateError(f"container {entry.identity} is started again and again by another command")


def _remove(dirs: Dirs, entry: Entry) -> None:
    try:
        record = state.claim_dead(dirs, entry.identity)
        if record is not None:
            try:
                burial.bury(dirs, entry.identity, forget=True)
            finally:
                os.close(record)
        burial.forget(dirs, entry.identity, entry.name)
    except OSError as error:
        raise PyboxError(f"cannot remove container {entry.identity}: {error.strerror}: {error.filename}") from None
    except ValueError as error:
        raise PyboxError(f"cannot remove container {entry.identity}: {error}") from None


def rename(dirs: Dirs, entry: Entry, name: str) -> None:
    """Give a kept container another name. Raises StateError when it is taken."""
    state.check_name(name)
    listing.config(dirs, entry)
    lock = kept.lock(dirs, entry.identity)
    try:
        what = kept.load(dirs, entry.identity)
        if what is None:
            raise StateError(f"container {entry.identity} was just removed")
        if name == what.name:
            raise StateError(f"container {entry.identity} has the name {name!r} already")
        state.reserve(dirs, entry.identity, name)
        try:
            kept.write(dirs, what.replace(name=name))
        except OSError:
            undo("unlink", f"{dirs.store}/names/{name}")
            raise
        if what.name:
            undo("unlink", f"{dirs.store}/names/{what.name}")
    finally:
        os.close(lock)
