"""The story of a run, in one screen: read what is needed, plan, claim, prepare, launch, supervise, undo.

Everything else in pybox is a word in this story. plan.py has the table of contents of a container.
"""

from __future__ import annotations

import os
from _thread import allocate_lock

from pybox import dirs as directories
from pybox import host, native, state, supervise
from pybox.dirs import Dirs
from pybox.kernel import cgroup, command
from pybox.kernel.inputs import Inputs
from pybox.kernel.namespaces import FIRST_ID
from pybox.plan import Plan
from pybox.planner import Planner, Ready
from pybox.record import Record
from pybox.result import Result
from pybox.spec import Spec
from pybox.steps.base import Desk
from pybox.undo import undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.fastjson import Json
    from pybox.result import Reason


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

    def _make_once(self, given: Inputs) -> None:
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
        self._make_once(ready.given)
        given, plan = ready.given, ready.plan
        claim = state.claim(self.dirs, options.name)
        desk = Desk(claim.identity, self.reuse)
        finished = False
        leaves = [(verb, desk.named(path)) for verb, path in plan.leaves()]
        try:
            journal = state.open_journal(
                claim, _journal(given, options, leaves, [[name, desk.named(path)] for name, path in plan.groups])
            )
            try:
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
        spec = given.spec
        groups = tuple((controller, desk.named(path)) for controller, path in plan.groups)
        streams = supervise.Streams(options.capture, options.feed, _owner(given))
        leash = (-1, -1)  # the socket to pybox-init
        try:
            for step in plan.prepare:
                step.apply(desk)
            if spec.init:
                leash = native.leash()
            fds = {**self.reuse, **desk.fds, **streams.given, "leash": leash[1]}
            child = native.launch(ready.program, desk.identity, fds, leash, spec.init)
            leash = (leash[0], -1)
            if isinstance(child, native.Failure):
                from pybox.failures import launch_error  # only who fails pays for the causes

                raise launch_error(plan.inside[child.index], child, given)
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
                end = supervise.follow(child, streams, leash[0], options.timeout, lambda: supervise.kill(child, groups))
            finally:
                os.close(child.pidfd)
            return _result(given, desk.identity, plan, desk, end, cgroup.bill(groups))
        finally:
            streams.close()
            for fd in leash:
                if fd >= 0:
                    os.close(fd)
            for slot, fd in desk.fds.items():
                if slot != "userns":  # reused
                    os.close(fd)


def _owner(given: Inputs) -> tuple[int, int] | None:
    """Return the ids that the command has on the host, where pybox may give something to them."""
    if not given.facts.root:
        return None
    first = FIRST_ID if given.mapped_by_root else 0
    return first + given.account.uid, first + given.account.gid


def _journal(given: Inputs, options: Options, leaves: list[tuple[str, str]], groups: list[Json]) -> dict[str, Json]:
    from time import time

    return {
        "schema": "pybox.container/1",
        "name": options.name,
        "image": given.image.name,
        "image_id": given.image.id,
        "layers": given.image.layers,
        "args": command.words(given),
        "created": time(),
        "owner": os.getpid(),
        "groups": groups,
        "leaves": [list(leaf) for leaf in leaves],
    }


def _result(given: Inputs, identity: str, plan: Plan, desk: Desk, end: supervise.End, bill: cgroup.Bill) -> Result:
    ended_by = end.status & 0x7F
    code = 128 + ended_by if ended_by else end.status >> 8
    reason: Reason = "signal" if ended_by else "exit"
    if end.timed_out:
        reason, ended_by, code = "timeout", 9, 137
    elif bill.oom_kills and ended_by == 9:
        reason = "oom"
    effective = tuple(
        (option, f"none: {desk.dropped[option]}" if option in desk.dropped else how) for option, how in plan.effective
    )
    return Result(
        id=identity,
        image=given.image.name,
        args=command.words(given),
        reason=reason,
        exit_code=code,
        signal=ended_by or None,
        stdout=end.stdout,
        stderr=end.stderr,
        wall=end.wall,
        cpu_user=end.usage.cpu_user,
        cpu_system=end.usage.cpu_system,
        memory_peak=bill.memory_peak if bill.memory_peak is not None else end.peak,
        limit_hits=bill.limit_hits,
        effective=effective,
    )
