"""What happens to containers, while it happens: create, start, oom, pause, unpause, die, destroy. inotify(7), pidfd_open(2)

There is no daemon to tell, and a launch does nothing for it. All of it is read off what is there anyway: the records of what
runs (state.py), the folders of what is kept (kept.py), a pidfd of each process 1, the event files of the control groups.

    journal or config written     create        the pid written into the journal    start
    memory.events, oom_control    oom           cgroup.events: frozen 1, frozen 0   pause, unpause
    record removed                die           record and folder removed           destroy

A container that lived for two or three milliseconds may be gone before its files are read: then there is less to tell.
"""

from __future__ import annotations

import os
from select import POLLIN, poll
from time import monotonic, time

from pybox import fastjson, kept, listing, state
from pybox.dirs import Dirs, ensure
from pybox.host import keyed, read
from pybox.kernel.freezer import frozen
from pybox.kernel.inotify import CLOSE_WRITE, CREATE, DELETE, IGNORED, MODIFY, MOVED_TO, ONLYDIR, OVERFLOW, Inotify, exit_status
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json
    from pybox.kernel.usage import Groups

KINDS = ("create", "start", "oom", "pause", "unpause", "die", "destroy")
_FILES = CREATE | MODIFY | CLOSE_WRITE | MOVED_TO
_AGAIN = 0.02  # seconds: a v1 memory group rings before it counts
_PATIENCE = 1.0  # seconds that an owner has to write how its container ended; it may be dead itself


class Event(Record):
    """One thing that happened to a container. ``exit_code`` and ``reason`` (see Result) are those of die, None when nobody knows."""

    time: float  # seconds since the epoch
    kind: str  # of KINDS
    identity: str
    name: str = ""
    image: str = ""
    exit_code: int | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the fields; those of die only for die."""
        shown: dict[str, Json] = {
            "time": self.time,
            "event": self.kind,
            "id": self.identity,
            "name": self.name,
            "image": self.image,
        }
        if self.kind == "die":
            shown.update(exit_code=self.exit_code, reason=self.reason)
        return shown


class _Known:
    """What has been told of one container so far."""

    def __init__(self, identity: str, path: str) -> None:
        self.identity, self.path = identity, path
        self.journal: dict[str, Json] = {}
        self.groups: Groups = ()
        self.created = self.dead = self.paused = False
        self.pid = 0
        self.pidfd = -1
        self.ended = 0.0  # monotonic() when process 1 was seen to be dead
        self.ooms = 0
        self.alarm = -1  # an eventfd that a v1 memory group rings
        self.rung = 0.0  # monotonic() when it did, until the kill has been counted


class Watcher:
    """Watches one state directory. ``wait`` returns what happened; ``past`` is what the records say of before."""

    def __init__(self, dirs: Dirs) -> None:
        self._dirs, self._state = dirs, ensure(dirs.state)
        self._inotify = Inotify()
        self._poll = poll()
        self._poll.register(self._inotify.fd, POLLIN)
        self._known: dict[str, _Known] = {}
        self._places: dict[int, _Known] = {}  # by inotify's number
        self._fds: dict[int, _Known] = {}  # pidfds and alarms
        self._new: list[Event] = []
        self._tops = [
            self._inotify.watch(ensure(path), CREATE | DELETE | ONLYDIR) for path in (self._state, f"{dirs.store}/containers")
        ]
        self.past: tuple[Event, ...] = ()
        self._scan()
        self.past = tuple(
            sorted((event for known in self._known.values() for event in self._history(known)), key=lambda e: e.time)
        )
        self._new = []  # it was so before
        for known in self._known.values():
            known.dead = known.dead or known.ended > 0.0

    def close(self) -> None:
        """Let go of everything."""
        for fd in self._fds:
            os.close(fd)
        self._inotify.close()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self, seconds: float | None) -> list[Event]:
        """Return what happened, as soon as something did, or nothing when the time is over (None: never)."""
        limit = None if seconds is None else monotonic() + seconds
        while not self._new:
            left = None if limit is None else limit - monotonic()
            if left is not None and left <= 0:
                break
            waits = [known.ended + _PATIENCE - monotonic() for known in self._known.values() if known.ended and not known.dead]
            if any(known.rung for known in self._known.values()):
                waits.append(_AGAIN)
            if waits:
                left = max(0.01, min(waits) if left is None else min(left, *waits))
            for fd, _ in self._poll.poll(None if left is None else left * 1000 + 1):
                if fd == self._inotify.fd:
                    self._hear()
                elif fd in self._fds:
                    self._ring(self._fds[fd], fd)
            for known in self._known.values():
                if known.rung:
                    self._look_at_groups(known)
            self._look_after_the_dead()
        told, self._new = self._new, []
        return told

    # --- what inotify says ---------------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        for number, mask, name in self._inotify.read():
            if mask & OVERFLOW:
                self._scan()
            elif mask & IGNORED:
                self._places.pop(number, None)
            elif number in self._tops:
                if state.is_id(name):
                    if mask & CREATE:
                        self._meet(name)
                    elif name in self._known:
                        self._gone(self._known[name])
            elif number in self._places:
                self._look(self._places[number])

    def _scan(self) -> None:
        """Meet all that are there and miss all that are not: at the beginning, and when the kernel's queue was full."""
        found = [name for name in {*os.listdir(self._state), *kept.identities(self._dirs)} if state.is_id(name)]
        for identity in found:
            self._meet(identity)
        for identity in self._known.keys() - found:
            self._gone(self._known[identity])

    def _meet(self, identity: str) -> None:
        known = self._known.setdefault(identity, _Known(identity, f"{self._state}/{identity}"))
        self._watch(known, known.path, _FILES)
        if not known.created:
            self._watch(known, kept.folder(self._dirs, identity), MOVED_TO)
        self._look(known)

    def _watch(self, known: _Known, path: str, mask: int) -> None:
        try:
            self._places[self._inotify.watch(path, mask)] = known
        except OSError:
            pass  # gone already: the next event says so

    def _ring(self, known: _Known, fd: int) -> None:
        if fd == known.alarm:
            os.eventfd_read(fd)
            known.rung = monotonic()
        else:
            self._poll.unregister(fd)  # readable for ever from now on
            known.ended = monotonic()
            self._look(known)

    # --- what the files say --------------------------------------------------------------------------------------------------

    def _look(self, known: _Known) -> None:
        """Tell what is new in the record and the groups of a container."""
        said, _, pid = read(f"{known.path}/journal").partition("\n")
        journal = _object(said)
        if not known.created:
            known.journal = journal or self._config(known)
            known.created = bool(known.journal)
            if known.created:
                self._tell(known, "create")
        if journal is not None and pid.isdigit() and int(pid) != known.pid:
            known.journal = journal
            self._started(known, int(pid))
        self._look_at_groups(known)
        if known.pid and not known.dead and journal is None:
            self._recorded(known)

    def _config(self, known: _Known) -> dict[str, Json]:
        config = kept.plain(self._dirs, known.identity)
        if config is None:
            return {}
        spec = config.get("spec")
        image = spec.get("image") if isinstance(spec, dict) else ""
        return {"name": config.get("name", ""), "image": image, "created": config.get("created")}

    def _recorded(self, known: _Known) -> None:
        """Tell how a container ended, if that has been written down."""
        result = kept.result(self._dirs, known.identity)
        if result is None or kept.is_running(self._dirs, known.identity):
            return
        reason, code = result.get("reason"), result.get("exit_code")
        if reason == "oom" and not known.ooms:
            self._tell(known, "oom")
        self._died(known, code if isinstance(code, int) else None, str(reason))

    def _started(self, known: _Known, pid: int) -> None:
        if known.pid and not known.dead:  # started again before anybody had written how it ended
            self._died(known, *_status(known))
        self._release(known)
        known.pid, known.dead, known.paused, known.ended, known.ooms, known.rung = pid, False, False, 0.0, 0, 0.0
        entry = listing.Entry(known.identity, "", known.path, "running", pid, known.journal, None)
        known.groups = entry.groups
        try:
            known.pidfd = os.pidfd_open(pid)
            self._fds[known.pidfd] = known
            self._poll.register(known.pidfd, POLLIN)
        except OSError:
            known.ended = monotonic()
        if not listing.owner_lives(known.path):  # then the pid may be anybody's by now
            self._release(known)
            known.ended = monotonic()
        for controller, path in known.groups:
            if controller == "":
                self._watch(known, f"{path}/cgroup.events", MODIFY)
                self._watch(known, f"{path}/memory.events", MODIFY)
            elif controller == "memory":
                self._set_alarm(known, path)
        self._tell(known, "start")

    def _set_alarm(self, known: _Known, path: str) -> None:
        """Have a v1 memory group ring when it is out of memory: Documentation/admin-guide/cgroup-v1/memory.rst 10."""
        try:
            with open(f"{path}/memory.oom_control", "rb") as control:
                alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._fds[alarm] = known
                with open(f"{path}/cgroup.event_control", "w") as registry:
                    registry.write(f"{alarm} {control.fileno()}")
        except OSError:
            return
        known.alarm = alarm
        self._poll.register(alarm, POLLIN)

    def _look_at_groups(self, known: _Known) -> None:
        if not known.pid or known.dead:
            known.rung = 0.0
            return
        for controller, path in known.groups:
            if controller in ("", "memory"):
                counts = keyed(read(f"{path}/{'memory.oom_control' if controller else 'memory.events'}"))
                if counts.get("oom_kill", 0) > known.ooms:
                    known.ooms, known.rung = counts["oom_kill"], 0.0
                    self._tell(known, "oom")
        if monotonic() - known.rung > _PATIENCE:
            known.rung = 0.0  # it was at its limit, and found room
        still = frozen(known.groups)
        # who is killed while paused comes out of the ice to die: nobody has unpaused him
        asked = any(read(f"{path}/cgroup.freeze").strip() == "1" for controller, path in known.groups if controller == "")
        if still != known.paused and (still or not asked) and not known.ended:
            known.paused = still
            self._tell(known, "pause" if still else "unpause")

    def _look_after_the_dead(self) -> None:
        """Tell of those whose owner does not write how they ended: it was killed too."""
        for known in self._known.values():
            if known.ended and not known.dead and monotonic() - known.ended >= _PATIENCE:
                self._recorded(known)
                if not known.dead:
                    self._died(known, *_status(known))

    # --- what is told --------------------------------------------------------------------------------------------------------

    def _died(self, known: _Known, code: int | None, reason: str | None) -> None:
        known.dead = True
        self._tell(known, "die", code, reason)
        self._release(known)

    def _gone(self, known: _Known) -> None:
        if not known.created:
            self._tell(known, "create")
        if os.path.isdir(known.path):
            return  # its folder was removed, the record of its end is next
        if known.pid and not known.dead:
            self._recorded(known)
        if known.pid and not known.dead:
            self._died(known, *_status(known))
        if kept.exists(self._dirs, known.identity):
            return  # it has ended, and can be started again
        if os.path.isdir(kept.folder(self._dirs, known.identity)):
            return  # it is being removed: the folder goes last
        self._tell(known, "destroy")
        self._release(known)
        del self._known[known.identity]

    def _release(self, known: _Known) -> None:
        for fd in (known.pidfd, known.alarm):
            if fd >= 0:
                try:
                    self._poll.unregister(fd)
                except KeyError:
                    pass
                del self._fds[fd]
                os.close(fd)
        known.pidfd = known.alarm = -1

    def _tell(self, known: _Known, kind: str, code: int | None = None, reason: str | None = None) -> None:
        journal = known.journal
        name, image = str(journal.get("name", "")), str(journal.get("image", ""))
        self._new.append(Event(time(), kind, known.identity, name, image, code, reason))

    def _history(self, known: _Known) -> list[Event]:
        """Return what the record of a container says of its past, with the times that its files bear."""
        created = known.journal.get("created")
        place = f"{kept.folder(self._dirs, known.identity)}/result"
        result = None if kept.is_running(self._dirs, known.identity) else kept.result(self._dirs, known.identity)
        found: list[tuple[float, str, Json, Json]] = []
        if isinstance(created, (int, float)):
            found.append((float(created), "create", None, None))
        if known.pid:
            found.append((_time_of(f"{known.path}/journal"), "start", None, None))
        elif result is not None:
            wall = result.get("wall")
            lasted = float(wall) if isinstance(wall, (int, float)) else 0.0
            found.append((max(_time_of(place) - lasted, *(at for at, *_ in found), 0.0), "start", None, None))
        if result is not None:
            found.append((_time_of(place), "die", result.get("exit_code"), result.get("reason")))
        name, image = str(known.journal.get("name", "")), str(known.journal.get("image", ""))
        return [
            Event(
                at,
                kind,
                known.identity,
                name,
                image,
                code if isinstance(code, int) else None,
                None if reason is None else str(reason),
            )
            for at, kind, code, reason in found
        ]


def _status(known: _Known) -> tuple[int | None, str | None]:
    """Return (exit code, reason) of a process 1 as the kernel tells it to a stranger: whether a time-out killed it, it can't tell."""
    status = exit_status(known.pidfd) if known.pidfd >= 0 else None
    if status is None:
        return None, None
    code = 128 + (status & 0x7F) if status & 0x7F else status >> 8
    return code, "oom" if known.ooms and code == 137 else "exit" if code < 128 else None


def _object(text: str) -> dict[str, Json] | None:
    try:
        value = fastjson.loads(text) if text else None
    except ValueError:  # not written to its end yet
        return None
    return value if isinstance(value, dict) else None


def _time_of(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return time()
