"""Containers that nobody waits for: the process that launches one becomes pybox-monitor, and at its end `pybox finish`.

    become    launch the container, then exec the monitor (csrc/monitor.h): same pid, so the container stays its child, and the
              lock on its record, an fd, goes along. No Python is left behind
    finish    what the monitor becomes when the container has ended and its output is written down: record the end, undo, and
              if it shall start again, become a monitor that only waits for that
    resume    what that one becomes when it is time

When the monitor is killed its container dies with it, at the leash, and the next pybox finds a record without a living owner.
"""

from __future__ import annotations

import os
import sys
from time import time

from pybox import fastjson, kept, native, specjson, state
from pybox.bill import bill
from pybox.dirs import Dirs
from pybox.host import read
from pybox.kept import Kept
from pybox.record import Record
from pybox.result import Result, never_ran, verdict
from pybox.runtime import Runtime, effective, journal_of
from pybox.spec import parse_signal
from pybox.state import Claim
from pybox.steps.base import Desk
from pybox.undo import undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pybox.fastjson import Json
    from pybox.native import Child
    from pybox.ready import Ready

SOCKET = "attach"
_LONGEST_PAUSE = 60.0  # seconds between two restarts
_GOOD_RUN = 10.0  # seconds; who ran for so long begins with the shortest pause again


class Pipes:
    """The container's streams as the monitor holds them: a terminal's master, or three pipes. ``close`` closes what is left."""

    def __init__(self, tty: bool, stdin: bool, to: tuple[int, int] | None, client: int, console: bool = False) -> None:
        self.given: dict[str, int] = {}
        self._console = console  # hold the terminal's other end, too: an init opens its console now and then
        self.ours: dict[str, int] = {"stdin": -1, "stdout": -1, "stderr": -1}
        if tty:
            self.ours["socket"], self.given["terminal-socket"] = native.leash()
            os.write(self.ours["socket"], _window(client))  # who makes the terminal finds its size waiting there
            return
        for name in ("stdout", "stderr"):
            self.ours[name], self.given[name] = os.pipe2(os.O_CLOEXEC)
        if stdin:
            self.given["stdin"], self.ours["stdin"] = os.pipe2(os.O_CLOEXEC)
        for fd in self.given.values():
            if to is not None:  # else the command could not open /dev/stdout, which is this pipe by another name
                os.fchown(fd, *to)
        if not stdin:
            self.given["stdin"] = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def launched(self) -> None:
        """Let go of the container's ends; with a terminal, take its master, which the new process has sent."""
        for fd in self.given.values():
            os.close(fd)
        self.given = {}
        if "socket" in self.ours:
            from socket import recv_fds, socket

            with socket(fileno=self.ours.pop("socket")) as ours:
                (master,) = recv_fds(ours, 1, 1)[1]
            self.ours["stdin"] = self.ours["stdout"] = master
            if self._console:
                self.ours["console"] = native.other_end(master)

    def close(self) -> None:
        """Close everything that is still open."""
        for fd in {*self.given.values(), *self.ours.values()} - {-1}:
            os.close(fd)
        self.given, self.ours = {}, {}


def become(runtime: Runtime, what: Kept, claim: Claim, client: int = -1, owned: bool = False, said: int = -1) -> NoReturn:
    """Launch a container and become its monitor. Raises a PyboxError when it can't be launched; then nothing of it runs.

    ``client`` is an attached client's socket from the start, ``owned``: the container dies with it; ``said`` is told "started".
    """
    spec = what.spec.replace(image=what.image_id or what.spec.image)  # the tag may have moved on
    ready: Ready
    try:
        own = f"{runtime.dirs.uppers}/{claim.identity}"
        there = _has_written(own)  # it has run before, and what it wrote is kept
        ready = runtime.planner.ready(spec, True, True, os.path.exists(runtime.dirs.disk(claim.identity)) if there else None)
        runtime.make_once(ready)
    except BaseException as error:
        _failed(runtime.dirs, what, claim, [], error if said < 0 else None)
        raise
    desk = Desk(claim.identity, runtime.reuse, what.name)
    leaves = [(verb, desk.named(path)) for verb, path in ready.leaves()]
    leaves += [("tree", kept.folder(runtime.dirs, claim.identity)), *(runtime.own_volumes(ready) if what.remove else ())]
    if not there:
        undo("tree", own)  # it may be half made
    pipes = Pipes(spec.tty, what.stdin, ready.owner, client, console=spec.system)
    journal, begun = -1, said < 0
    try:
        said_of_it = {**journal_of(ready, desk, what.name, leaves), **_said(what)}
        journal = state.open_journal(claim, said_of_it)
        kept.begin(runtime.dirs, what.identity, kept.ROOM + len(fastjson.dumps(said_of_it["args"])))
        begun = True
        runtime.make_own_volumes(ready)
        if there:
            ready = _keep_upper(ready)
        child, leash = runtime.clone(ready, desk, pipes.given)
        try:
            pipes.launched()
            state.write_all(journal, str(child.pid).encode(), f"{claim.path}/journal")
            enforced = fastjson.dumps(dict(effective(ready, desk)))
            _exec(runtime.dirs, what, claim, child, leash, pipes, (client, owned), enforced, said)
        except BaseException:
            os.kill(child.pid, 9)
            native.wait(child.pid)
            raise
    except BaseException as error:
        _failed(runtime.dirs, what, claim, leaves, error if begun else None)
        raise
    finally:
        pipes.close()
        if journal >= 0:
            os.close(journal)
        desk.close()


def _failed(dirs: Dirs, what: Kept, claim: Claim, leaves: list[tuple[str, str]], error: BaseException | None) -> None:
    """Undo what was done for a container that could not be launched, and record why; it can be started again.

    Without ``error`` it has not come so far: the container is as it was before.
    """
    for verb, path in reversed(leaves):
        if verb != "tree":
            undo(verb, path)
    if error is not None:
        _record_failure(dirs, what, error)
    state.release(claim)


def _record_failure(dirs: Dirs, what: Kept, error: BaseException) -> None:
    failed = never_ran(what.spec.image, what.spec.args, error, what.identity)
    try:
        kept.end(dirs, what.identity, failed.to_json())
    except OSError:  # the disk is full, which is why it could not be launched
        undo("unlink", f"{kept.folder(dirs, what.identity)}/running")


def _window(client: int) -> bytes:
    """Return the rows and columns, as two uint16, that a client has announced; it is left for the monitor to read again."""
    from socket import MSG_DONTWAIT, MSG_PEEK, socket

    if client < 0:
        return bytes(4)
    peer = socket(fileno=client)
    try:
        message = peer.recv(16, MSG_PEEK | MSG_DONTWAIT)
    except BlockingIOError:
        message = b""
    finally:
        peer.detach()
    return message[1:] if len(message) == 5 and message[0] == native.number("PB_K_SIZE") else bytes(4)


def _said(what: Kept) -> dict[str, Json]:
    """Return what the journal of a looked-after container says beside that of any other."""
    return {
        "image": what.spec.image,
        "spec": specjson.to_json(what.spec),
        "created": what.created,
        "started": time(),
        "kept": not what.remove,  # see burial.bury
        "monitor": True,
    }


def _has_written(upper: str) -> bool:
    """Return whether a writable layer has anything in it, or is a file system of its own, which is there when it is whole."""
    try:
        return bool(os.listdir(f"{upper}/u")) or os.path.exists(f"{upper}/disk")
    except FileNotFoundError:
        return False
    except PermissionError:  # a plain user's, whose root in there is another id
        return True


def _keep_upper(ready: Ready) -> Ready:
    """Return the plan of another start: the writable layer is there already."""
    from pybox.steps.hostside import MakeUpper

    prepare = tuple(step for step in ready.prepare if not isinstance(step, MakeUpper))
    return ready.replace(prepare=prepare)


def _exec(
    dirs: Dirs,
    what: Kept,
    claim: Claim,
    child: Child,
    leash: int,
    pipes: Pipes,
    client: tuple[int, bool],
    enforced: str,
    said: int,
) -> NoReturn:
    log = os.open(kept.folder(dirs, what.identity), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    begun = child.report.begun // 1_000_000
    numbers = {
        "PB_M_PID": child.pid,
        "PB_M_LEASH": leash,
        "PB_M_STDIN": pipes.ours["stdin"],
        "PB_M_STDOUT": pipes.ours["stdout"],
        "PB_M_STDERR": pipes.ours["stderr"],
        "PB_M_TERMINAL": int(what.spec.tty),
        "PB_M_CONSOLE": pipes.ours.get("console", -1),
        "PB_M_LISTEN": _listen(claim),
        "PB_M_CLIENT": client[0],
        "PB_M_OWNER": int(client[1]),
        "PB_M_LOG": log,
        "PB_M_LOG_SIZE": what.log_size,
        "PB_M_LOG_FILES": what.log_files,
        "PB_M_BEGUN": begun,
        "PB_M_HEALTH": round(what.health.interval * 1000) if what.health is not None and what.health.command else 0,
        "PB_M_DEADLINE": 0 if what.timeout is None else begun + round(what.timeout * 1000),
        "PB_M_STOP": parse_signal(what.spec.stop_signal) if what.spec.stop_signal else 15,
    }
    try:  # who is told that it runs may ask for its log at once
        os.close(os.open(f"{kept.folder(dirs, what.identity)}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
    except OSError:  # a full disk: the monitor tries again at the first line
        pass
    if said >= 0:
        try:
            os.write(said, b"started")
        except BrokenPipeError:  # who started it was killed meanwhile: it runs, and is listed
            pass
    _become_monitor(dirs, claim, numbers, (*pipes.ours.values(), leash), [enforced])


def _become_monitor(dirs: Dirs, claim: Claim, numbers: dict[str, int], fds: tuple[int, ...], rest: list[str]) -> NoReturn:
    words = ["pybox-monitor"] + ["-1"] * (native.number("PB_M_FINISH") - 1)
    for name, value in numbers.items():
        words[native.number(name)] = str(value)
    for fd in (*fds, *(numbers.get(name, -1) for name in ("PB_M_LISTEN", "PB_M_CLIENT", "PB_M_LOG")), claim.lock):
        if fd >= 0:
            os.set_inheritable(fd, True)
    env = {**os.environ, "PYBOX_STORE": dirs.store, "PYBOX_STATE": dirs.state}
    os.execve(native.beside("pybox-monitor"), [*words, *_finish_command(claim, rest)], env)


def _listen(claim: Claim) -> int:
    from socket import AF_UNIX, SOCK_SEQPACKET, socket

    door = socket(AF_UNIX, SOCK_SEQPACKET)
    place = f"/proc/self/fd/{claim.lock}/{SOCKET}"  # a name of the full path may be longer than sun_path, unix(7)
    undo("unlink", place)
    door.bind(place)
    door.listen(8)
    return door.detach()


def _finish_command(claim: Claim, rest: list[str]) -> list[str]:
    """Return the words that start this very pybox again, however it was started, with as little as possible around it."""
    import _cffi_backend

    places = dict.fromkeys(
        os.path.dirname(os.path.abspath(file)) for file in (os.path.dirname(__file__), _cffi_backend.__file__ or "")
    )
    code = f"import sys; sys.path += {list(places)!r}; from pybox.cli.main import main; main()"
    return [sys.executable, "-I", "-S", "-c", code, "finish", claim.identity, str(claim.lock), *rest]


class Fate(Record):
    """What the monitor saw of the end, in the order of its words (csrc/monitor.c, finish)."""

    status: int  # as wait(2) gives it, of process 1
    told: int  # of the command, as pybox-init told it; -1: it did not
    maxrss_kb: int  # of the largest process, -1: not told
    user_us: int
    system_us: int
    wall_ms: int
    timed_out: int
    lost: int  # lines of the log
    told_to_end: int  # the monitor itself was sent SIGTERM: the machine goes down
    read_bytes: int  # from block devices
    written_bytes: int


def finish(dirs: Dirs, identity: str, lock: int, enforced: str, fate: Fate) -> None:
    """Record the end of a container and undo what was done for it; wait for its next start if it shall be started again."""
    claim = Claim(identity, f"{dirs.state}/{identity}", lock)
    os.set_inheritable(lock, False)
    journal = state.parse(read(f"{claim.path}/journal").partition("\n")[0]) or {}
    what = kept.load(dirs, identity)
    forget = what is None or what.remove
    if what is not None and not what.remove:
        result = _result(journal, what, enforced, fate)
        kept.end(dirs, identity, result.to_json())  # first: whatever happens from here on, this is how it ended
    guard = kept.lock(dirs, identity) if what is not None and forget else -1  # a rename, perhaps
    try:
        if guard >= 0:
            undo("unlink", f"{kept.folder(dirs, identity)}/config")
        leaves = journal.get("leaves")
        for leaf in reversed(leaves if isinstance(leaves, list) else []):
            assert isinstance(leaf, list)
            if forget or leaf[0] != "tree":
                undo(str(leaf[0]), str(leaf[1]))
    finally:
        if guard >= 0:
            os.close(guard)
    if what is not None and not forget and not fate.told_to_end and _wants_restart(dirs, what, result):
        _wait_for_restart(dirs, claim, result)
    state.release(claim)
    if forget:
        for name, holder in state.names(dirs):
            if holder == identity:
                state.free_if_left(dirs, name)


def _result(journal: dict[str, Json], what: Kept, enforced: str, fate: Fate) -> Result:
    pairs = journal.get("groups")
    groups = tuple((str(pair[0]), str(pair[1])) for pair in pairs if isinstance(pair, list)) if isinstance(pairs, list) else ()
    cost = bill(groups)
    status = fate.told if fate.told >= 0 else fate.status
    reason, code, ended_by = verdict(status, bool(fate.timed_out), cost.oom_kills)
    args = journal.get("args")
    how = fastjson.loads(enforced)
    peak = fate.maxrss_kb * 1024 if fate.maxrss_kb >= 0 else None
    return Result(
        id=what.identity,
        image=what.spec.image,
        args=tuple(str(arg) for arg in args) if isinstance(args, list) else (),
        reason=reason,
        exit_code=code,
        signal=ended_by,
        wall=fate.wall_ms / 1000,
        ended=time(),
        cpu_user=fate.user_us / 1e6,
        cpu_system=fate.system_us / 1e6,
        **cost.with_usage(peak, (fate.read_bytes, fate.written_bytes)),
        image_id=what.image_id,
        effective=tuple((name, str(value)) for name, value in how.items()) if isinstance(how, dict) else (),
        error=f"{fate.lost} lines of its log are missing: the disk was full" if fate.lost else None,
    )


def _wants_restart(dirs: Dirs, what: Kept, result: Result) -> bool:
    policy, _, most = what.restart.partition(":")
    if policy == "no" or kept.is_stopped(dirs, what.identity):
        return False
    if policy != "on-failure":
        return True
    restarts = read(f"{dirs.state}/{what.identity}/restarts")
    return result.exit_code != 0 and not (most and int(restarts or 0) >= int(most))


def _wait_for_restart(dirs: Dirs, claim: Claim, result: Result) -> None:
    """Become a monitor that waits, 0.1 s doubling to a minute, and hears `stop` and `rm -f`; returns only when that can't be."""
    from time import monotonic

    count = 0 if result.wall >= _GOOD_RUN else int(read(f"{claim.path}/restarts") or 0)
    pause = min(0.1 * 2 ** min(count, 16), _LONGEST_PAUSE)
    try:
        state.forget_run(claim.path)
        state.write_file(claim, "restarts", str(count + 1))
        numbers = {
            "PB_M_PID": 0,
            "PB_M_LISTEN": _listen(claim),
            "PB_M_LOG": os.open(kept.folder(dirs, claim.identity), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC),
            "PB_M_DEADLINE": round((monotonic() + pause) * 1000),
        }
        _become_monitor(dirs, claim, numbers, (), [])
    except OSError:
        pass


def resume(dirs: Dirs, identity: str, lock: int) -> None:
    """Start a container again, when the time has come; or not, when it was stopped or removed meanwhile."""
    claim = Claim(identity, f"{dirs.state}/{identity}", lock)
    os.set_inheritable(lock, False)
    what = kept.load(dirs, identity)
    if what is None or kept.is_stopped(dirs, identity):
        state.release(claim)
    else:
        become(Runtime(dirs), what, claim)
