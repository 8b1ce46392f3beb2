"""The story of a run, in one screen: read what is needed, plan, claim, prepare, launch, supervise, undo.

Everything else in pybox is a word in this story. plan.py has the table of contents of a container.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from time import time

from pybox import dirs as directories
from pybox import host, native, state, supervise
from pybox.dirs import Dirs
from pybox.kernel import cgroup, command
from pybox.kernel.inputs import Inputs
from pybox.kernel.namespaces import FIRST_ID
from pybox.plan import Plan
from pybox.planner import Planner, Ready
from pybox.record import Record
from pybox.result import Result, verdict
from pybox.spec import Spec
from pybox.steps.base import Desk
from pybox.undo import undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.fastjson import Json


class Options(Record):
    """What is asked of the run itself, beside the container: none of it changes the plan but ``keep``."""

    capture: bool = False
    feed: bytes | None = None  # for stdin
    timeout: float | None = None  # seconds
    keep: bool = False  # leave the record and the writable layer for `ps -a` and `rm`
    name: str = ""


class Runtime:
    """What one process uses for many runs: the facts, the sealed pybox-init, user namespaces, compiled plans."""

    def __init__(self, where: Dirs | None = None) -> None:
        self.dirs = where or directories.current()
        self.facts = host.probe()
        self.reuse: dict[str, int] = {}
        self._once = allocate_lock()
        self._pid = 0
        self.planner = Planner(self.dirs, self.facts)

    def plan(self, spec: Spec, keep_upper: bool = False) -> Plan:
        """Return the plan of a run, without running it."""
        return self.planner.plan(spec, keep_upper).plan

    def make_once(self, given: Inputs) -> None:
        with self._once:  # threads share what is made once
            if not self._pid:
                self._make_directories()
            if (given.spec.init or given.userns) and "program" not in self.reuse:
                self.reuse["program"] = native.seal("pybox-init", native.init_program())
            if self._pid != os.getpid():  # at first, and after a fork
                self._pid, self.reuse["owner"] = os.getpid(), os.pidfd_open(os.getpid())

    def _make_directories(self) -> None:
        for path in (self.dirs.state, self.dirs.store, self.dirs.uppers, f"{self.dirs.store}/mnt", f"{self.dirs.store}/scratch"):
            directories.ensure(path, 0o711 if path == self.dirs.store else 0o700)

    def run(self, spec: Spec, options: Options, started: Callable[[native.Child, str], None] | None = None) -> Result:
        """Run a container to its end. Raises a PyboxError when it can't be started; then nothing of it is left."""
        ready = self.planner.ready(spec, options.keep)
        self.make_once(ready.given)
        plan = ready.plan
        claim = state.claim(self.dirs, options.name)
        desk = Desk(claim.identity, self.reuse)
        finished = False
        leaves = [(verb, desk.named(path)) for verb, path in plan.leaves()]
        if options.keep:
            leaves.append(("tree", f"{self.dirs.store}/containers/{claim.identity}"))
        try:
            journal = state.open_journal(claim, journal_of(ready, desk, options.name, leaves))
            try:
                if options.keep:
                    _keep(self.dirs, claim.identity, ready, options)
                result = self._launch(ready, desk, options, journal, started)
            finally:
                os.close(journal)
            finished = True
            if options.keep:
                state.write_result(claim, result.to_json())
            return result
        finally:
            keep = options.keep and finished
            for verb, path in reversed(leaves):
                if not (keep and verb == "tree"):
                    undo(verb, path)
            if options.name and not keep:
                undo("unlink", f"{self.dirs.state}/names/{options.name}")
            state.release(claim, keep)

    def _launch(
        self,
        ready: Ready,
        desk: Desk,
        options: Options,
        journal: int,
        started: Callable[[native.Child, str], None] | None,
    ) -> Result:
        given, plan = ready.given, ready.plan
        groups = tuple((controller, desk.named(path)) for controller, path in plan.groups)
        streams = supervise.Streams(options.capture, options.feed, owner(given))
        leash = -1  # our end of the socket to pybox-init
        try:
            child, leash = self.clone(ready, desk, streams.given)
            try:
                try:
                    streams.handed_over()
                    os.write(journal, str(child.pid).encode())
                    if started is not None:
                        started(child, desk.identity)
                except BaseException:  # until follow takes over, whatever fails must not leave a container behind
                    supervise.kill(child, groups)
                    native.wait(child.pid)
                    raise
                end = supervise.follow(child, streams, leash, options.timeout, lambda: supervise.kill(child, groups))
            finally:
                os.close(child.pidfd)
            return _result(given, desk.identity, plan, desk, end, cgroup.bill(groups))
        finally:
            streams.close()
            if leash >= 0:
                os.close(leash)
            desk.close()

    def clone(self, ready: Ready, desk: Desk, fds: dict[str, int]) -> tuple[native.Child, int]:
        """Make the prepare steps and launch; returns the child and our end of the leash (-1 without pybox-init).

        Raises the PyboxError that names the step which failed. The fds of the desk are the caller's to close.
        """
        init = ready.given.spec.init
        for step in ready.plan.prepare:
            step.apply(desk)
        leash = native.leash() if init else (-1, -1)
        child = native.launch(ready.program, desk.identity, {**self.reuse, **desk.fds, **fds, "leash": leash[1]}, leash, init)
        if isinstance(child, native.Failure):
            from pybox.failures import launch_error  # only who fails pays for the causes

            if init:
                os.close(leash[0])
            raise launch_error(ready.plan.inside[child.index], child, ready.given)
        return child, leash[0]


def _keep(where: Dirs, identity: str, ready: Ready, options: Options) -> None:
    from pybox import kept

    image = ready.given.image
    kept.write(
        where,
        kept.Kept(
            identity,
            ready.given.spec,
            image.id,
            image.layers,
            name=options.name,
            created=time(),
            stdin=True,
            timeout=options.timeout,
        ),
    )


def owner(given: Inputs) -> tuple[int, int] | None:
    """Return the ids that the command has on the host, where pybox may give something to them."""
    if not given.facts.root:
        return None
    first = FIRST_ID if given.mapped_by_root else 0
    return first + given.account.uid, first + given.account.gid


def journal_of(ready: Ready, desk: Desk, name: str, leaves: list[tuple[str, str]]) -> dict[str, Json]:
    """Return the journal of a run, which is written before anything is done: who and what, and what undoing needs."""
    given = ready.given
    return {
        "schema": "pybox.container/1",
        "name": name,
        "image": given.image.name,
        "image_id": given.image.id,
        "layers": given.image.layers,
        "args": command.words(given),
        "created": time(),
        "owner": os.getpid(),
        "leaves": [list(leaf) for leaf in leaves],
        "groups": [[controller, desk.named(path)] for controller, path in ready.plan.groups],
        "spec": ready.asked,
    }


def effective(plan: Plan, desk: Desk) -> tuple[tuple[str, str], ...]:
    """Return (option, how it is enforced): as planned, but for what --best-effort gave up on the way."""
    return tuple((option, f"none: {desk.dropped[option]}" if option in desk.dropped else how) for option, how in plan.effective)


def _result(given: Inputs, identity: str, plan: Plan, desk: Desk, end: supervise.End, bill: cgroup.Bill) -> Result:
    reason, code, ended_by = verdict(end.status, end.timed_out, bill.oom_kills)
    return Result(
        id=identity,
        image=given.image.name,
        args=command.words(given),
        reason=reason,
        exit_code=code,
        signal=ended_by,
        stdout=end.stdout,
        stderr=end.stderr,
        wall=end.wall,
        ended=time(),
        cpu_user=end.usage.cpu_user,
        cpu_system=end.usage.cpu_system,
        memory_peak=bill.memory_peak if bill.memory_peak is not None else end.peak,
        limit_hits=bill.limit_hits,
        effective=effective(plan, desk),
    )
