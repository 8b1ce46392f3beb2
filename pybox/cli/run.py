"""`pybox run` and `pybox explain run`: from the words of the command line to a Spec, and the signals of a foreground run."""

from __future__ import annotations

import os
from _signal import SIG_DFL, SIG_IGN, getsignal, pidfd_send_signal, set_wakeup_fd, signal

from pybox import fastjson, state, text
from pybox.cli.options import RUN, Parsed, parse
from pybox.dirs import Dirs
from pybox.errors import PyboxError, SpecError
from pybox.result import Result
from pybox.runtime import Options, Runtime
from pybox.spec import Limits, Spec
from pybox.units import parse_bytes, parse_cpus, parse_int, parse_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.native import Child
    from pybox.spec import Network, Share, Upper

# Passed on to the container: what people and schedulers send. 28 is a resized terminal.
# Options of a run that pybox-monitor looks after.
BACKGROUND = ("detach", "tty", "restart", "health-cmd", "cidfile", "label", "log-opt", "system")
FORWARDED = {"HUP": 1, "INT": 2, "QUIT": 3, "USR1": 10, "USR2": 12, "TERM": 15, "CONT": 18, "WINCH": 28}


def spec_of(parsed: Parsed) -> Spec:
    """Return the Spec of a parsed command line. Raises SpecError."""
    if not parsed.rest:
        raise SpecError("image", "", "no image given", "pybox run IMAGE COMMAND [ARG...]; `pybox images` lists images")
    env: dict[str, str] = {}
    for path in parsed.all("env-file"):
        env.update(text.read_env_file(path))
    env.update(pair for pair in map(text.parse_env, parsed.all("env")) if pair)
    system = parsed.has("system")
    userns = parsed.has("userns") or (system and parsed.one("userns") is None)
    # in a user namespace of its own su and sudo give no more than its process 1 has already
    rights = {"seccomp": "", "no-new-privileges": "false" if system and userns else "true"}
    rights.update(text.parse_security_opt(word) for word in parsed.all("security-opt"))
    swap = parsed.one("memory-swap")
    entrypoint = parsed.one("entrypoint")
    return Spec(
        image=parsed.rest[0],
        args=tuple(parsed.rest[1:]),
        entrypoint=None if entrypoint is None else (entrypoint,) if entrypoint else (),
        env=tuple(env.items()),
        user=parsed.one("user") or "",
        workdir=parsed.one("workdir") or "",
        hostname=parsed.one("hostname") or "",
        mounts=(*map(text.parse_volume, parsed.all("volume")), *map(text.parse_tmpfs, parsed.all("tmpfs"))),
        limits=Limits(
            memory=parse_bytes("memory", parsed.one("memory")),
            memory_swap=-1 if swap == "-1" else parse_bytes("memory-swap", swap),
            cpus=parse_cpus("cpus", parsed.one("cpus")),
            cpu_shares=parse_int("cpu-shares", parsed.one("cpu-shares"), 2, 262144),
            cpuset_cpus=parsed.one("cpuset-cpus"),
            pids=_pids(parsed.one("pids-limit")),
            oom_score_adj=parse_int("oom-score-adj", parsed.one("oom-score-adj"), -1000, 1000),
        ),
        rlimits=tuple(map(text.parse_ulimit, parsed.all("ulimit"))),
        network=_network(parsed.one("network")),
        pid=_share(parsed, "pid"),
        ipc=_share(parsed, "ipc"),
        uts=_share(parsed, "uts"),
        userns=userns,
        read_only=parsed.has("read-only"),
        upper=_upper(parsed.one("upper")),
        init=_init(parsed) and not system,
        system=system,
        tty=parsed.has("tty") or system,
        stop_signal=parsed.one("stop-signal") or "",
        cap_add=tuple(map(text.parse_capability, parsed.all("cap-add"))),
        cap_drop=tuple(map(text.parse_capability, parsed.all("cap-drop"))),
        seccomp=rights["seccomp"],
        no_new_privs=rights["no-new-privileges"] == "true",
        best_effort=parsed.has("best-effort"),
    )


def _init(parsed: Parsed) -> bool:
    for key in reversed(parsed.values):
        if key in ("init", "no-init"):
            return (key == "init") == parsed.has(key)
    return True


def _pids(text: str | None) -> int | None:
    return None if text == "-1" else parse_int("pids-limit", text, 1, 1 << 22)  # docker's word for unlimited


def _share(parsed: Parsed, key: str) -> Share:
    value = parsed.one(key) or "private"
    if value not in ("private", "host"):
        raise SpecError(key, value, "must be private or host")
    return "host" if value == "host" else "private"


def _network(value: str | None) -> Network:
    if value not in (None, "none", "host"):
        raise SpecError("network", value, "must be none or host", "bridges are not part of this version")
    return "host" if value == "host" else "none"


def _upper(value: str | None) -> Upper:
    if value not in (None, "memory", "disk"):
        raise SpecError("upper", value, "must be memory or disk")
    return "memory" if value == "memory" else "disk" if value else ""


def options_of(parsed: Parsed) -> Options:
    """Return what is asked of the run itself. Raises SpecError."""
    name = parsed.one("name")
    return Options(
        timeout=parse_seconds("timeout", parsed.one("timeout")),
        keep=not parsed.has("rm"),
        name=state.check_name(name) if name is not None else "",
    )


class Forwarder:
    """Passes signals on to the container: those that came before it ran, too."""

    def __init__(self) -> None:
        self._pidfd = -1
        self.woken, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        self._early: list[int] = []
        for number in FORWARDED.values():
            if getsignal(number) != SIG_IGN:  # nohup(1) and the like: what pybox is told to ignore, the container does not hear
                signal(number, self._forward)

    def _forward(self, number: int, frame: object) -> None:
        if self._pidfd < 0:
            self._early.append(number)
            return
        try:
            pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass

    def started(self, child: Child, identity: str) -> None:
        """Begin to pass on."""
        self._pidfd = child.pidfd
        for number in self._early:
            self._forward(number, None)

    def stop(self) -> None:
        """Give the signals their default meaning again: the fd is no longer the container's."""
        for number in FORWARDED.values():
            if getsignal(number) == self._forward:
                signal(number, SIG_DFL)
        set_wakeup_fd(-1)
        os.close(self.woken)
        os.close(self._waker)


def run(where: Dirs, words: list[str]) -> int:
    """Run a container in the foreground; returns the exit status for the shell."""
    parsed = parse(RUN, words)
    if parsed.has("help"):
        from pybox.cli.commands import COMMANDS
        from pybox.cli.help import command_help

        print(command_help(next(command for command in COMMANDS if command.name == "run")))
        return 0
    if any(parsed.values.get(key) for key in BACKGROUND):
        from pybox.cli.background import run as run_in_background  # who stays in the foreground pays nothing for it

        return run_in_background(where, parsed)
    status_file = parsed.one("status-file")
    status = -1 if status_file is None else _open_status(status_file)
    try:
        spec, options = spec_of(parsed), options_of(parsed)
        forwarder = Forwarder()
        runtime = Runtime(where)
        sweep(runtime)
        try:
            result = runtime.run(spec, options.replace(woken=forwarder.woken), forwarder.started)
        finally:
            forwarder.stop()
    except PyboxError as error:
        image, *args = parsed.rest or [""]
        failed = Result("", image, tuple(args), "launch-failed", error.exit_code, error=error.message)
        _write_status(status, failed)
        raise
    _write_status(status, result)
    _tell(result, spec)
    return result.exit_code


def _tell(result: Result, spec: Spec) -> None:
    lines = [f"pybox: {option} is not enforced: {how}" for option, how in result.effective if how.startswith("none")]
    if result.reason == "oom":
        lines.append(f"pybox: out of memory: killed at its limit of {spec.limits.memory} bytes")
    elif result.reason == "timeout":
        lines.append("pybox: time-out: container killed")
    for line in lines:
        os.write(2, f"{line}\n".encode())


def sweep(runtime: Runtime) -> None:
    """Clean up after killed pyboxes; what can't be cleaned up is a warning."""
    try:
        for line in state.sweep(runtime.dirs):
            if state.STUCK in line:
                os.write(2, f"pybox: warning: {line}\n".encode())
    except OSError as error:
        os.write(2, f"pybox: warning: cannot clean up after a killed pybox: {error}\n".encode())


def _open_status(path: str) -> int:
    """Return an fd of the --status-file: opened before the run, so that one that can't be written is refused before it."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise SpecError("status-file", path, str(error.strerror)) from None


def _write_status(fd: int, result: Result) -> None:
    if fd >= 0:
        os.write(fd, fastjson.dumps(result.to_json()).encode() + b"\n")
        os.close(fd)
