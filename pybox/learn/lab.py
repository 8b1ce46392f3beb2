"""Lab: where an answer is run, and how it is looked at.

Whatever was handed in gets a container with its own user namespace (its root is nobody outside), no network, a limit on memory and on
processes where this host has them, and ten seconds. Of a `pybox run` line only options that can't reach out of that are taken. The
container stands still when its answer has run: a Scene is what the kernel shows of it then, from outside.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from select import POLLIN, poll
from shlex import split
from time import monotonic, sleep

from pybox import host
from pybox.doctor.trial import Outcome, attempt, call
from pybox.errors import ImageNotFound, PyboxError, SpecError
from pybox.failures import ExecError, StepFailed
from pybox.image import store
from pybox.image.reference import HOST
from pybox.kernel.processes import Process as Member
from pybox.kernel.processes import processes as members
from pybox.learn.lesson import CannotHere
from pybox.process import Process
from pybox.runtime import Options, Running
from pybox.seen import Seen
from pybox.shown import visible
from pybox.spec import Limits, Spec
from pybox.supervise import DEVNULL, PIPE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pybox.fastjson import Json
    from pybox.kernel.usage import Groups
    from pybox.runtime import Runtime

SECONDS = 10.0  # for an answer to come to its end
SETTLE = 3.0  # for what it started to come to rest
IDLE = ("sleep", "1000")
MEMORY, PIDS = 256 << 20, 200  # the most that an answer's own program may have
# The answer's words go to stderr: stdout has one reader, who waits for one line.
_AROUND = 'sh -c "$0" >&2; echo done; exec sleep 1000'
# Options of `pybox run` that stay inside, and those that mean nothing here. What shows a file of the host or writes one, shares one of its
# namespaces or names a network is not among them.
HARMLESS = frozenset(
    "init no-init env user workdir hostname memory memory-swap cpus cpu-shares cpuset-cpus pids-limit ulimit read-only tmpfs cap-add"
    " cap-drop timeout stop-signal security-opt".split()
)
IGNORED = frozenset("rm detach interactive name".split())


class Refused(PyboxError):
    """An answer that is not run: what it asks for is not this lesson's, or makes no sense. The message is for the learner."""


class Lab:
    """One bench for many answers."""

    def __init__(self, runtime: Runtime, read_line: Callable[[list[str]], tuple[set[str], Spec]]) -> None:
        """``read_line`` turns the words after `pybox run` into the options that were given, and a Spec."""
        self.runtime = runtime
        self.facts = runtime.facts
        self.kept: dict[str, object] = {}  # what a lesson finds out once
        self.said: tuple[str, ...] = ()  # the last lines that a script wrote, for the learner to read: no check does
        self._read_line = read_line
        try:
            self.image = store.find(runtime.dirs, "busybox").name
        except ImageNotFound:
            self.image = HOST  # the machine's own programs under a throw-away layer

    def insist_on_image(self) -> None:
        """Raise CannotHere where answers have only the machine's own files: those are not one tree for a plain user, or not a small one."""
        if self.image == HOST:
            raise CannotHere("it needs the image busybox", "images")

    def spec(self, *words: str, **changes: object) -> Spec:
        """Return the container that answers are run in, with some fields changed."""
        return Spec(image=self.image, args=words, userns=True, limits=Limits(memory=MEMORY, pids=PIDS), best_effort=True).replace(
            **changes
        )

    def asked(self, body: str, command: tuple[str, ...] = ()) -> Spec:
        """Return the Spec of an answer that is a `pybox run` line; ``command`` is what it has to run. Raises Refused."""
        lines = [line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]
        try:
            words = split(" ".join(line.removesuffix("\\") for line in lines))
        except ValueError as error:
            raise Refused(f"it is no command line: {str(error).lower()}") from None
        if words[:2] != ["pybox", "run"]:
            raise Refused("the answer is one line that begins with `pybox run`")
        try:
            given, spec = self._read_line(words[2:])
        except SpecError as error:
            raise Refused(f"pybox refuses the line: {error.message}") from None
        if foreign := sorted(given - HARMLESS - IGNORED):
            raise Refused(f"--{foreign[0]} is not for this lesson: an answer stays inside its container")
        if spec.seccomp not in ("", "unconfined"):
            raise Refused("a seccomp profile of your own is not for this lesson")
        if command and spec.args != command:
            raise Refused(f"the command has to stay as it was: {' '.join(command)}")
        if not command:  # else it is ours, which needs no limit to be harmless, and no filter
            given_memory, given_pids = spec.limits.memory or MEMORY, spec.limits.pids or PIDS
            spec = spec.replace(limits=Limits(memory=min(given_memory, MEMORY), pids=min(given_pids, PIDS)), seccomp="")
        return spec.replace(image=self.image, userns=True, best_effort=True)

    def start(self, spec: Spec, out: int = DEVNULL, theirs: bool = False) -> Scene:
        """Start a container; ``theirs``: one whose options an answer has chosen. Raises Refused where the answer is at fault, CannotHere
        where the host is."""
        options = Options(stdin=DEVNULL, stdout=out, stderr=out)
        try:
            running = Running(self.runtime, self.runtime.ready(spec, False), options)
            return Scene(Process(running, spec.args, None), running.groups)
        except (SpecError, ExecError) as error:
            raise Refused(f"pybox refuses it: {error.message}") from None
        except StepFailed as error:
            if theirs and self._works():
                raise Refused(f"the kernel refuses it: {error.message}") from None
            item = "userns" if "clone" in error.message or "user namespace" in error.message else "run"
            raise CannotHere(error.message, item) from None
        except PyboxError as error:
            raise CannotHere(error.message, "images" if isinstance(error, ImageNotFound) else "run") from None

    def _works(self) -> bool:
        """Return whether a container without anybody's options can be started here."""
        try:
            self.start(self.spec("true")).process.close()
        except (Refused, CannotHere):
            return False
        return True

    @contextmanager
    def standing(self, spec: Spec, theirs: bool = False) -> Iterator[Scene]:
        """Start a container whose command stays, and wait until all of it has come to rest. It is killed at the end."""
        scene = self.start(spec, theirs=theirs)
        with scene.process:
            scene.settle()
            yield scene

    @contextmanager
    def after(self, script: str, **changes: object) -> Iterator[Scene]:
        """Run a script to its end in a container, which then stands still with all that the script has left running.

        Raises Refused when it does not come to its end.
        """
        scene = self.start(self.spec("sh", "-c", _AROUND, script, **changes), PIPE)
        with scene.process:
            self.said = _until_done(scene.process)
            scene.settle()
            yield scene


def _until_done(process: Process) -> tuple[str, ...]:
    """Wait for the script's end; returns the last lines it wrote. It may write what it likes: only so much is kept."""
    assert process.stdout is not None and process.stderr is not None
    out, err = process.stdout.fileno(), process.stderr.fileno()
    watch = poll()
    watch.register(out, POLLIN)
    watch.register(err, POLLIN)
    said, wrote, limit = b"", b"", monotonic() + SECONDS
    while b"done\n" not in said:
        left = limit - monotonic()
        if left <= 0 or len(said) > 4096:
            raise Refused(f"the script did not come to its end within {SECONDS:.0f} seconds")
        for fd, _ in watch.poll(left * 1000):
            part = os.read(fd, 65536)
            if fd == out:
                said += part
            wrote = (wrote + part)[-2048:] if fd == err else wrote
            if not part:
                watch.unregister(fd)
                if fd == out:
                    raise Refused("the script ended its own container")
    if watch.poll(0) and (part := os.read(err, 65536)):
        wrote = (wrote + part)[-2048:]
    return tuple(visible(line) for line in wrote.decode(errors="replace").splitlines()[-4:])


class Scene:
    """A container that stands still, seen from the host."""

    def __init__(self, process: Process, groups: Groups) -> None:
        self.process = process
        self.groups = groups
        self.one = Seen(process.pid, process.id)  # process 1

    @property
    def stands(self) -> bool:
        """Whether its process 1 lives."""
        return not self.ended(0)

    def processes(self) -> tuple[Member, ...]:
        """Return its processes as they are now."""
        return members(self.process.pid, self.groups)

    def everyone(self) -> tuple[Member, ...]:
        """Return all of its PID namespace: also the dead that nobody has waited for, and who is not in its control group any more."""
        return members(self.process.pid, ())

    def named(self, name: str) -> list[Seen]:
        """Return its processes of a name, process 1 included."""
        return [Seen(process.host_pid) for process in self.processes() if process.name == name]

    def apart(self, kind: str) -> list[Seen]:
        """Return its processes that are in another namespace of a kind than its process 1."""
        ours = self.one.namespace(kind)
        found = [Seen(process.host_pid) for process in self.processes() if process.state != "Z"]
        return [seen for seen in found if seen.namespace(kind) not in ("", ours)]

    def settle(self) -> None:
        """Wait until none of its processes has anything to do: all sleep, and none was scheduled between two looks."""
        last, limit = None, monotonic() + SETTLE
        while monotonic() < limit:
            now = tuple((process.host_pid, process.state, _switches(process.host_pid)) for process in self.processes())
            if not now:  # about to be gone: its group is empty before its parent can know
                self.ended(SETTLE)
                return
            if now == last and all(state in "SZT" for _, state, _ in now):
                return
            last = now
            sleep(0.003)

    def ended(self, seconds: float) -> bool:
        """Return whether it ends within some seconds."""
        watch = poll()
        watch.register(self.process.fileno(), POLLIN)
        return bool(watch.poll(seconds * 1000))


def _switches(pid: int) -> str:
    return host.read(f"/proc/{pid}/status").partition("voluntary_ctxt_switches")[2]


def enter(seen: Seen, kinds: tuple[str, ...], act: Callable[[], Json]) -> Outcome:
    """Do something in a child of ours that has entered a process's namespaces, its user namespace first. setns(2)"""
    fds = [os.open(f"/proc/{seen.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("user", *kinds) if seen.private(kind)]

    def entered() -> Json:
        for fd in fds:
            call("setns", "setns", fd, 0)
        return act()

    try:
        return attempt(entered)
    finally:
        for fd in fds:
            os.close(fd)
