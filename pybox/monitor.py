"""Containers that nobody waits for: the process that launches one becomes pybox-monitor, and at its end `pybox finish`.

    become    launch the container, then exec the monitor (csrc/monitor.h): same pid, so the container stays its child, and the
              lock on its record, an fd, goes along. No Python is left behind
    finish    what the monitor becomes when the container has ended and its output is written down: record the end, undo, start
              again if it shall restart

When the monitor is killed its container dies with it, at the leash, and the next pybox finds a record without a living owner.
"""

from __future__ import annotations

import os
import sys

from pybox import fastjson, kept, native, specjson, state
from pybox.dirs import Dirs
from pybox.errors import PyboxError, StateError
from pybox.host import read
from pybox.kept import Kept
from pybox.kernel import cgroup
from pybox.record import Record
from pybox.result import Result, verdict
from pybox.runtime import Runtime, effective, journal_of, owner
from pybox.state import Claim
from pybox.steps.base import Desk
from pybox.undo import undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pybox.fastjson import Json
    from pybox.native import Child
    from pybox.planner import Ready

SOCKET = "attach"
_LONGEST_PAUSE = 60.0  # seconds between two restarts
_GOOD_RUN = 10.0  # seconds; who ran for so long begins with the shortest pause again


class Pipes:
    """The container's streams as the monitor holds them: a terminal's master, or three pipes. ``close`` closes what is left."""

    def __init__(self, tty: bool, stdin: bool, to: tuple[int, int] | None, client: int) -> None:
        self.given: dict[str, int] = {}
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
    ready = runtime.planner.ready(spec, keep=True, managed=True)
    runtime.make_once(ready.given)
    desk = Desk(claim.identity, runtime.reuse)
    leaves = [(verb, desk.named(path)) for verb, path in ready.plan.leaves()]
    leaves.append(("tree", kept.folder(runtime.dirs, claim.identity)))
    there = os.path.isdir(f"{runtime.dirs.uppers}/{claim.identity}")  # it has run before, and what it wrote is kept
    pipes = Pipes(spec.tty, what.stdin, owner(ready.given), client)
    journal = state.open_journal(claim, {**journal_of(ready, desk, what.name, leaves), **_said(what)})
    try:
        if there:
            ready = _keep_upper(ready)
        child, leash = runtime.clone(ready, desk, pipes.given)
        try:
            pipes.launched()
            os.write(journal, str(child.pid).encode())
            enforced = fastjson.dumps(dict(effective(ready.plan, desk)))
            _exec(runtime.dirs, what, claim, child, leash, pipes, (client, owned), enforced, said)
        except BaseException:
            os.kill(child.pid, 9)
            native.wait(child.pid)
            raise
    except BaseException:
        for verb, path in reversed(leaves):
            if verb != "tree":
                undo(verb, path)
        raise
    finally:
        pipes.close()
        os.close(journal)
        desk.close()


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
        "kept": not what.remove,
        "monitor": True,
    }


def _keep_upper(ready: Ready) -> Ready:
    """Return the plan of another start: the writable layer is there already."""
    from pybox.steps.hostside import MakeUpper

    prepare = tuple(step for step in ready.plan.prepare if not isinstance(step, MakeUpper))
    return ready.replace(plan=ready.plan.replace(prepare=prepare))


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
        "PB_M_LISTEN": _listen(claim),
        "PB_M_CLIENT": client[0],
        "PB_M_OWNER": int(client[1]),
        "PB_M_LOG": log,
        "PB_M_LOG_SIZE": what.log_size,
        "PB_M_LOG_FILES": what.log_files,
        "PB_M_BEGUN": begun,
        "PB_M_DEADLINE": 0 if what.timeout is None else begun + round(what.timeout * 1000),
    }
    words = ["pybox-monitor"] + [""] * (native.number("PB_M_FINISH") - 1)
    for name, value in numbers.items():
        words[native.number(name)] = str(value)
    for fd in (leash, *pipes.ours.values(), *(numbers[name] for name in ("PB_M_LISTEN", "PB_M_CLIENT", "PB_M_LOG")), claim.lock):
        if fd >= 0:
            os.set_inheritable(fd, True)
    if said >= 0:
        os.write(said, b"started")
    env = {**os.environ, "PYBOX_STORE": dirs.store, "PYBOX_STATE": dirs.state}
    os.execve(native.beside("pybox-monitor"), [*words, *_finish_command(what.identity, claim.lock, enforced)], env)


def _listen(claim: Claim) -> int:
    from socket import AF_UNIX, SOCK_SEQPACKET, socket

    door = socket(AF_UNIX, SOCK_SEQPACKET)
    place = f"/proc/self/fd/{claim.lock}/{SOCKET}"  # a name of the full path may be longer than sun_path, unix(7)
    undo("unlink", place)
    door.bind(place)
    door.listen(8)
    return door.detach()


def _finish_command(identity: str, lock: int, enforced: str) -> list[str]:
    """Return the words that start this very pybox again, however it was started, with as little as possible around it."""
    import _cffi_backend

    places = dict.fromkeys(
        os.path.dirname(os.path.abspath(file)) for file in (os.path.dirname(__file__), _cffi_backend.__file__ or "")
    )
    code = f"import sys; sys.path += {list(places)!r}; from pybox.cli.main import main; main()"
    return [sys.executable, "-I", "-S", "-c", code, "finish", identity, str(lock), enforced]


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


def finish(dirs: Dirs, identity: str, lock: int, enforced: str, fate: Fate) -> None:
    """Record the end of a container, undo what was done for it, and start it again if it shall be."""
    claim = Claim(identity, f"{dirs.state}/{identity}", lock)
    os.set_inheritable(lock, False)
    journal = state.parse(read(f"{claim.path}/journal").partition("\n")[0]) or {}
    what = kept.load(dirs, identity)
    if what is None:
        raise StateError(f"container {identity} was removed while it ran")
    result = _result(journal, what, enforced, fate)
    leaves = journal.get("leaves")
    for leaf in reversed(leaves if isinstance(leaves, list) else []):
        assert isinstance(leaf, list)
        if leaf[0] != "tree" or what.remove:
            undo(str(leaf[0]), str(leaf[1]))
    if what.remove:
        if what.name:
            undo("unlink", f"{dirs.state}/names/{what.name}")
        state.release(claim)
    elif _wants_restart(dirs, what, result):
        _again(dirs, what, claim, result)
    else:
        state.write_result(claim, result.to_json())
        state.release(claim, keep=True)


def _result(journal: dict[str, Json], what: Kept, enforced: str, fate: Fate) -> Result:
    pairs = journal.get("groups")
    groups = tuple((str(pair[0]), str(pair[1])) for pair in pairs if isinstance(pair, list)) if isinstance(pairs, list) else ()
    bill = cgroup.bill(groups)
    status = fate.told if fate.told >= 0 else fate.status
    reason, code, ended_by = verdict(status, bool(fate.timed_out), bill.oom_kills)
    args = journal.get("args")
    how = fastjson.loads(enforced)
    return Result(
        id=what.identity,
        image=what.spec.image,
        args=tuple(str(arg) for arg in args) if isinstance(args, list) else (),
        reason=reason,
        exit_code=code,
        signal=ended_by,
        wall=fate.wall_ms / 1000,
        cpu_user=fate.user_us / 1e6,
        cpu_system=fate.system_us / 1e6,
        memory_peak=bill.memory_peak if bill.memory_peak is not None else fate.maxrss_kb * 1024 if fate.maxrss_kb >= 0 else None,
        limit_hits=bill.limit_hits,
        effective=tuple((name, str(value)) for name, value in how.items()) if isinstance(how, dict) else (),
    )


def _wants_restart(dirs: Dirs, what: Kept, result: Result) -> bool:
    policy, _, most = what.restart.partition(":")
    if policy == "no" or kept.is_stopped(dirs, what.identity):
        return False
    if policy != "on-failure":
        return True
    restarts = read(f"{dirs.state}/{what.identity}/restarts")
    return result.exit_code != 0 and not (most and int(restarts or 0) >= int(most))


def _again(dirs: Dirs, what: Kept, claim: Claim, result: Result) -> None:
    """Start it again after a pause that doubles from 0.1 s to a minute; while it lasts, `stop` and `rm -f` are heard."""
    from time import monotonic, sleep

    count = 0 if result.wall >= _GOOD_RUN else int(read(f"{claim.path}/restarts") or 0)
    limit = monotonic() + min(0.1 * 2 ** min(count, 16), _LONGEST_PAUSE)
    state.forget_run(claim.path)
    state.write_file(claim, "restarts", str(count + 1))
    while monotonic() < limit and not kept.is_stopped(dirs, what.identity):
        sleep(0.05)
    if kept.is_stopped(dirs, what.identity):
        state.write_result(claim, result.to_json())
        state.release(claim, keep=True)
        return
    try:
        become(Runtime(dirs), what, claim)
    except (PyboxError, OSError) as error:
        message = error.message if isinstance(error, PyboxError) else str(error)
        failed = result.replace(reason="launch-failed", exit_code=getattr(error, "exit_code", 125), error=message)
        state.write_result(claim, failed.to_json())
        state.release(claim, keep=True)
