"""The story of a run, in one screen: read what is needed, plan, claim, prepare, launch, supervise, undo.

Everything else in pybox is a word in this story. plan.py has the table of contents of a container.
"""

from __future__ import annotations

import posix as os
from _thread import allocate_lock
from time import time

from pybox import dirs as directories
from pybox import host, native, state, supervise
from pybox.bill import STALL, Bill, bill
from pybox.dirs import Dirs
from pybox.ready import Ready
from pybox.record import Record
from pybox.result import Result, verdict
from pybox.steps.base import Desk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.fastjson import Json
    from pybox.plan import Plan
    from pybox.planner import Planner
    from pybox.spec import Spec
    from pybox.supervise import Sink


class Options(Record):
    """What is asked of the run itself, beside the container: none of it changes the plan but ``keep``."""

    capture: bool = False
    feed: bytes | None = None  # for stdin
    timeout: float | None = None  # seconds
    keep: bool = False  # leave the record and the writable layer for `ps -a` and `rm`
    name: str = ""
    stdout: Sink | None = None  # instead of capturing or passing it through
    stderr: Sink | None = None
    stdin: Sink | None = None
    woken: int = -1  # an fd that becomes readable when a signal has come, see cli/forwarding.py
    keep_upper: bool = False  # its writable layer is on disk, for ``ended``
    ended: Callable[[Result], object] | None = None  # called when it has ended, before anything of it is undone


class Runtime:
    """What one process uses for many runs: the facts, the sealed pybox-init, user namespaces, compiled plans."""

    begin = staticmethod(native.launch)  # who steps through a plan has another door: explain/stepping.py

    def __init__(self, where: Dirs | None = None) -> None:
        self.dirs = where or directories.current()
        self.facts = host.probe()
        self.reuse: dict[str, int] = {}
        self._once = allocate_lock()
        self._pid = 0
        self._ran = False
        self._planner: Planner | None = None

    @property
    def planner(self) -> Planner:
        """What makes plans; loaded when the first one is to be made, for one that is remembered needs none of it."""
        if self._planner is None:
            from pybox.planner import Planner

            with self._once:
                self._planner = self._planner or Planner(self.dirs, self.facts)
        return self._planner

    def ready(self, spec: Spec, keep: bool) -> Ready:
        """Plan a run, or find the plan of an equal one. Raises ImageNotFound, SpecError or LimitError."""
        if spec.takes_spare_network(self.facts.root):
            native.order_network()  # made while we plan
        self.make_volumes(spec)
        return self.planner.ready(spec, keep)

    def make_volumes(self, spec: Spec) -> None:
        """Make the volumes of a run that are not there yet."""
        if any(mount.source is not None and mount.source.startswith(f"{self.dirs.store}/volumes/") for mount in spec.mounts):
            from pybox import volumes  # who has none pays nothing for it

            self.make_directories()
            volumes.prepare(self.planner, spec)

    def own_volumes(self, ready: Ready) -> list[tuple[str, str]]:
        """Return what undoing needs for the volumes without a name, where they go with the container."""
        mounts = ready.asked.get("mounts")
        rows = [row for row in mounts if isinstance(row, dict)] if isinstance(mounts, (list, tuple)) else []
        return [("tree", str(row.get("source")).removesuffix("/data")) for row in rows if row.get("anonymous")]

    def make_own_volumes(self, ready: Ready) -> None:
        """Make the volumes without a name. The journal knows of them."""
        if self.own_volumes(ready):
            from pybox import volumes

            volumes.prepare(self.planner, ready.planned(self.planner).given.spec, anonymous=True)

    def plan(self, spec: Spec, keep_upper: bool = False) -> Plan:
        """Return the plan of a run, without running it."""
        return self.planner.plan(spec, keep_upper).plan

    def make_once(self, ready: Ready) -> None:
        """Make what this process uses for many runs, as far as this one needs it."""
        with self._once:  # threads share what is made once
            if not self._pid:
                self.make_directories()
            if (ready.init or ready.holder) and "program" not in self.reuse:
                self.reuse["program"] = native.seal("pybox-init", native.init_program())
            if self._pid != os.getpid():  # at first, and after a fork
                self._pid, self.reuse["owner"] = os.getpid(), os.pidfd_open(os.getpid())

    def make_directories(self) -> None:
        """Make the directories that every mount of layers begins in."""
        for path in (self.dirs.state, self.dirs.store, self.dirs.uppers, f"{self.dirs.store}/mnt", f"{self.dirs.store}/scratch"):
            directories.ensure(path, 0o711 if path == self.dirs.store else 0o700)

    def run(self, spec: Spec, options: Options, started: Callable[[native.Child, str], None] | None = None) -> Result:
        """Run a container to its end. Raises a PyboxError when it can't be started; then nothing of it is left."""
        return self.launch(self.ready(spec, options.keep or options.keep_upper), options, started)

    def launch(self, ready: Ready, options: Options, started: Callable[[native.Child, str], None] | None = None) -> Result:
        """Run what is planned already, to its end. Raises as ``run``."""
        running = Running(self, ready, options)
        if started is not None:
            try:
                started(running.child, running.identity)
            except BaseException:  # until follow takes over, whatever fails must not leave a container behind
                running.abandon()
                raise
        return running.follow()

    def clone(self, ready: Ready, desk: Desk, fds: dict[str, int]) -> tuple[native.Child, int]:
        """Make the prepare steps and launch; returns the child and our end of the leash (-1 without pybox-init).

        Raises the PyboxError that names the step which failed. The fds of the desk are the caller's to close.
        """
        for step in ready.prepare:
            try:
                step.apply(desk)
            except OSError as error:
                from pybox.failures import host_error  # only who fails pays for the causes

                raise host_error(step, error, ready.planned(self.planner).given) from None
        if self._ran and "netns" in desk.fds and not ready.returns_network:
            native.order_network()  # for the next run: who has run two jobs will run a third
        self._ran = True
        leash = native.leash() if ready.init else (-1, -1)
        child = self.begin(ready.program, desk.identity, {**self.reuse, **desk.fds, **fds, "leash": leash[1]}, leash, ready.init)
        if "netns" in desk.fds:
            os.close(desk.fds.pop("netns"))  # now it lives as long as the container, and no longer
        if isinstance(child, native.Failure):
            from pybox.failures import launch_error

            if ready.init:
                os.close(leash[0])
            planned = ready.planned(self.planner)
            raise launch_error(planned.plan.inside[child.index], child, planned.given)
        return child, leash[0]


class Running:
    """A container that runs, and what is owed to the host for it: the end is ``follow``, ``settle`` or ``abandon``, once."""

    def __init__(self, runtime: Runtime, ready: Ready, options: Options) -> None:
        """Claim, journal, prepare, launch. Raises a PyboxError when something refuses; then nothing is left."""
        self._ready = ready
        runtime.make_once(ready)
        self._dirs, self._options = runtime.dirs, options
        self._claim = state.claim(runtime.dirs, options.name)
        self.identity = self._claim.identity
        self._desk = Desk(self.identity, runtime.reuse, options.name)
        self._leaves = [(verb, self._desk.named(path)) for verb, path in ready.leaves()]
        self._leash = -1
        self.streams: supervise.Streams | None = None
        if options.keep:
            self._leaves.append(("tree", f"{runtime.dirs.store}/containers/{self.identity}"))
        else:
            self._leaves += runtime.own_volumes(ready)
        try:
            journal = state.open_journal(self._claim, journal_of(ready, self._desk, options.name, self._leaves))
            try:
                runtime.make_own_volumes(ready)
                if options.keep:
                    _keep(runtime.dirs, self.identity, ready, options)
                self.groups = tuple((controller, self._desk.named(path)) for controller, path in ready.groups)
                self.streams = supervise.Streams(
                    options.capture, options.feed, ready.owner, options.stdout, options.stderr, options.stdin
                )
                self.child, self._leash = runtime.clone(ready, self._desk, self.streams.given)
                try:
                    self.streams.handed_over()
                    os.write(journal, str(self.child.pid).encode())
                except BaseException:
                    self._end_it()
                    raise
            finally:
                os.close(journal)
        except BaseException:
            if options.keep:  # it never was, so nobody would know of its volumes either
                self._leaves += runtime.own_volumes(ready)
            self._clean(keep=False)
            raise

    def kill(self) -> None:
        """End all of its processes; `settle` still has to be called."""
        supervise.kill(self.child, self.groups)

    def follow(self) -> Result:
        """Serve its streams until it has ended, and settle. An exception in between kills it, and passes through."""
        assert self.streams is not None
        try:
            end = supervise.follow(self.child, self.streams, self._leash, self._options.timeout, self.kill, self._options.woken)
        except BaseException:
            self._close()
            self._clean(keep=False)
            raise
        return self._result(end)

    def settle(self, timed_out: bool = False) -> Result:
        """Reap a container that has ended, undo what was done for it, and return what happened."""
        assert self.streams is not None
        return self._result(supervise.conclude(self.child, self.streams, self._leash, timed_out))

    def abandon(self) -> None:
        """Kill it and undo everything; nobody wants to know how it ended."""
        try:
            self._end_it()
        finally:
            self._clean(keep=False)

    def _end_it(self) -> None:
        self.kill()
        native.wait(self.child.pid)
        self._close()

    def _result(self, end: supervise.End) -> Result:
        finished = False
        try:
            self._close()
            if self._ready.returns_network and self._desk.network >= 0:
                native.return_network(self._desk.network)
                self._desk.network = -1
            result = _result(self._ready, self._desk, end, bill(self.groups, end.wall >= STALL))
            if self._options.keep:
                _ended(self._dirs, result)
            if self._options.ended is not None:
                self._options.ended(result)
            finished = True
            return result
        finally:
            self._clean(keep=self._options.keep and finished)

    def _close(self) -> None:
        os.close(self.child.pidfd)

    def _clean(self, keep: bool) -> None:
        try:
            if self.streams is not None:
                self.streams.close()
            if self._leash >= 0:
                os.close(self._leash)
            self._desk.close()
        finally:
            self._undo(keep)
            state.release(self._claim)

    def _undo(self, keep: bool) -> None:
        leaves = [(verb, path) for verb, path in self._leaves if not (keep and verb == "tree")]
        if self._options.name and not keep:
            leaves.insert(0, ("unlink", f"{self._dirs.store}/names/{self._options.name}"))
        if self._options.keep and not keep:  # what has no config is no container, and what is half removed is swept
            leaves.append(("unlink", f"{self._dirs.store}/containers/{self.identity}/config"))
        if leaves:
            from pybox.undo import undo  # a run without limits, in memory, has nothing on the host to undo

            for verb, path in reversed(leaves):
                undo(verb, path)


def _keep(where: Dirs, identity: str, ready: Ready, options: Options) -> None:
    from pybox import kept, specjson

    _, image_id, layers = ready.image
    lock = kept.make(where, identity)
    kept.begin(where, identity, kept.ROOM + len(str(ready.words)))
    kept.write(
        where,
        kept.Kept(
            identity,
            specjson.from_json(ready.asked),
            image_id,
            layers,
            name=options.name,
            created=time(),
            stdin=True,
            timeout=options.timeout,
        ),
    )
    os.close(lock)


def _ended(where: Dirs, result: Result) -> None:
    from pybox import kept

    kept.end(where, result.id, result.to_json())


def journal_of(ready: Ready, desk: Desk, name: str, leaves: list[tuple[str, str]]) -> dict[str, Json]:
    """Return the journal of a run, which is written before anything is done: who and what, and what undoing needs."""
    image, image_id, layers = ready.image
    return {
        "schema": "pybox.container/1",
        "name": name,
        "image": image,
        "image_id": image_id,
        "layers": layers,
        "args": ready.words,
        "created": time(),
        "owner": os.getpid(),
        "leaves": [list(leaf) for leaf in leaves],
        "groups": [[controller, desk.named(path)] for controller, path in ready.groups],
        "spec": ready.asked,
    }


def effective(ready: Ready, desk: Desk) -> tuple[tuple[str, str], ...]:
    """Return (option, how it is enforced): as planned, but for what --best-effort gave up on the way."""
    return tuple((option, f"none: {desk.dropped[option]}" if option in desk.dropped else how) for option, how in ready.effective)


def _result(ready: Ready, desk: Desk, end: supervise.End, cost: Bill) -> Result:
    reason, code, ended_by = verdict(end.status, end.timed_out, cost.oom_kills)
    return Result(
        id=desk.identity,
        image=ready.image[0],
        args=ready.words,
        reason=reason,
        exit_code=code,
        signal=ended_by,
        stdout=end.stdout,
        stderr=end.stderr,
        wall=end.wall,
        ended=time(),
        cpu_user=end.usage.cpu_user,
        cpu_system=end.usage.cpu_system,
        **cost.with_usage(end.peak, (end.usage.read_bytes, end.usage.written_bytes)),
        image_id=ready.image[1],
        effective=effective(ready, desk),
    )
