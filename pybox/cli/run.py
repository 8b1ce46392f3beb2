"""`pybox run` and `pybox explain run`: from the words of the command line to a Spec."""

from __future__ import annotations

import os

from pybox import fastjson, plans, state, text
from pybox.cli.foreground import launch, tell
from pybox.cli.forwarding import Forwarder
from pybox.cli.options import RUN, Parsed, parse
from pybox.dirs import Dirs
from pybox.errors import ImageNotFound, PyboxError, SpecError
from pybox.plans import Typed
from pybox.result import Result, never_ran
from pybox.runtime import Options, Runtime
from pybox.spec import NO_NET, Limits, Net, Spec
from pybox.units import parse_bytes, parse_cpus, parse_int, parse_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pybox.ready import Ready
    from pybox.spec import Share, Upper

    T = TypeVar("T")

# Options of a run that pybox-monitor looks after.
BACKGROUND = ("detach", "tty", "restart", "health-cmd", "cidfile", "label", "log-opt", "system")
# Options that say all that there is to say: a plan that has only these can be kept, see plans.py.
_PLAIN = frozenset(
    "rm init no-init env user workdir hostname entrypoint volume tmpfs memory memory-swap cpus cpu-shares cpuset-cpus pids-limit"
    " oom-score-adj ulimit network pid ipc uts userns read-only upper cap-add cap-drop security-opt best-effort timeout name".split()
)
LOOKED_AT = ("trace", "step", "until")  # a run that somebody watches being made


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
    network, net = _network(parsed)
    entrypoint = parsed.one("entrypoint")
    spec = Spec(
        image=parsed.rest[0],
        args=tuple(parsed.rest[1:]),
        entrypoint=None if entrypoint is None else (entrypoint,) if entrypoint else (),
        env=tuple(env.items()),
        user=parsed.one("user") or "",
        workdir=parsed.one("workdir") or "",
        hostname=parsed.one("hostname") or "",
        mounts=(
            *map(text.parse_volume, parsed.all("volume")),
            *map(text.parse_mount, parsed.all("mount")),
            *map(text.parse_tmpfs, parsed.all("tmpfs")),
        ),
        limits=Limits(
            memory=parse_bytes("memory", parsed.one("memory")),
            memory_swap=-1 if swap == "-1" else parse_bytes("memory-swap", swap),
            cpus=parse_cpus("cpus", parsed.one("cpus")),
            cpu_shares=parse_int("cpu-shares", parsed.one("cpu-shares"), 2, 262144),
            cpuset_cpus=parsed.one("cpuset-cpus"),
            pids=_pids(parsed.one("pids-limit")),
            oom_score_adj=parse_int("oom-score-adj", parsed.one("oom-score-adj"), -1000, 1000),
            storage_size=parse_bytes("storage-size", parsed.one("storage-size")),
        ),
        rlimits=tuple(map(text.parse_ulimit, parsed.all("ulimit"))),
        network=network,
        net=net,
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
    if parsed.has("hpc"):
        from pybox.hpc import notes, settle  # who is not started by a batch system does not pay for it

        spec = settle(spec, {key.replace("-", "_") for key in parsed.values})
        for line in notes(spec):
            os.write(2, f"pybox: {line}\n".encode(errors="surrogateescape"))
    return _without(spec, parsed.all("without")) if parsed.values.get("without") else spec


def _without(spec: Spec, parts: list[str]) -> Spec:
    from pybox.explain.without import LOSSES, without

    spec = without(spec, parts)
    for part in dict.fromkeys(parts):
        os.write(2, f"pybox: without {part}: {LOSSES[part].lost}\npybox: because {LOSSES[part].why}\n".encode())
    return spec


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


_OF_NETWORKS = ("publish", "publish-all", "ip", "mac-address", "dns", "add-host", "allow-net", "net-rate")


def _network(parsed: Parsed) -> tuple[str, Net]:
    words = parsed.all("network")
    if not any(parsed.values.get(key) for key in _OF_NETWORKS):
        return ",".join(words) or "none", NO_NET
    from pybox import netspec  # who has no network pays nothing for it

    net = Net(
        ip=tuple(parsed.all("ip")),
        mac=parsed.one("mac-address") or "",
        dns=tuple(parsed.all("dns")),
        hosts=tuple(parsed.all("add-host")),
        ports=tuple(parsed.all("publish")),
        publish_all=parsed.has("publish-all"),
        allow=tuple(parsed.all("allow-net")),
        rate=netspec.parse_rate("net-rate", parsed.one("net-rate")),
    )
    return ",".join(words) or "pybox", net  # who asks for a port wants a network


def warn(spec: Spec) -> None:
    """Say what keeps a container from the world that it is to reach."""
    if spec.network not in ("none", "host") and not spec.network.startswith("container:") and os.geteuid() == 0:
        from pybox.network import firewall, networks

        # other people's rules are looked at when ours are not there yet: once a boot
        for line in networks.trouble(thorough=not firewall.is_there()):
            os.write(2, f"pybox: warning: {line}\n".encode())


def _upper(value: str | None) -> Upper:
    if value not in (None, "memory", "disk"):
        raise SpecError("upper", value, "must be memory or disk")
    return "memory" if value == "memory" else "disk" if value else ""


def removes(parsed: Parsed) -> bool:
    """Return whether the container is to be forgotten at its end: --rm, which --hpc implies where nothing is to start it again."""
    return parsed.has("rm") or (parsed.has("hpc") and not {"rm", "restart"} & parsed.values.keys())


def options_of(parsed: Parsed) -> Options:
    """Return what is asked of the run itself. Raises SpecError."""
    name = parsed.one("name")
    return Options(
        timeout=parse_seconds("timeout", parsed.one("timeout")),
        keep=not removes(parsed),
        name=state.check_name(name) if name is not None else "",
    )


def run(where: Dirs, words: list[str]) -> int:
    """Run a container in the foreground; returns the exit status for the shell."""
    parsed = parse(RUN, words)
    if parsed.has("help"):
        from pybox.cli.commands import COMMANDS
        from pybox.cli.help import command_help

        print(command_help(next(command for command in COMMANDS if command.name == "run")))
        return 0
    if any(parsed.values.get(key) for key in LOOKED_AT):
        from pybox.cli.stepping import run as run_looked_at

        return run_looked_at(where, parsed)
    if any(parsed.values.get(key) for key in BACKGROUND):
        from pybox.cli.background import run as run_in_background  # who stays in the foreground pays nothing for it

        return run_in_background(where, parsed)
    status_file = parsed.one("status-file")
    status = -1 if status_file is None else open_output("status-file", status_file)
    try:
        spec, options = spec_of(parsed), options_of(parsed)
        warn(spec)
        runtime = Runtime(where)
        forwarder, known, ready = with_image(where, parsed, lambda: _ready(runtime, parsed, spec, options))
        result = launch(runtime, ready, options, forwarder)
    except PyboxError as error:
        image, *args = parsed.rest or [""]
        _write_status(status, never_ran(image, tuple(args), error))
        raise
    _write_status(status, result)
    if known is not None:
        typed = Typed(options.timeout, options.keep, options.name, spec.limits.memory)
        plans.remember(where, words, len(spec.args) - 1 if spec.args else None, known, typed, ready)
    return tell(result, spec.limits.memory)


def _ready(runtime: Runtime, parsed: Parsed, spec: Spec, options: Options) -> tuple[Forwarder, tuple[object, ...] | None, Ready]:
    forwarder = Forwarder()
    try:
        known = None if _depends_on_more(parsed) else plans.conditions(runtime.dirs, spec, runtime.facts)
        return forwarder, known, runtime.ready(spec, options.keep)
    except ImageNotFound:  # it will be pulled, which a signal is to interrupt
        forwarder.stop()
        raise


def with_image(where: Dirs, parsed: Parsed, act: Callable[[], T]) -> T:
    """Do what needs the image; where it is absent, or --pull says so, pull it and do it then. Raises SpecError."""
    from pybox.image import store

    policy = store.check_pull(parsed.one("pull") or "missing")
    return store.pulled(policy, act, lambda absent: _bring(where, parsed.rest[0], absent))


def _bring(where: Dirs, name: str, absent: ImageNotFound | None) -> None:
    from pybox.cli.registry import bring

    bring(where, name, absent)


def _depends_on_more(parsed: Parsed) -> bool:
    """Whether a command line means more than its words say: what another file holds, our environment, a file to write."""
    return not parsed.values.keys() <= _PLAIN or any("=" not in word for word in parsed.all("env"))


def open_output(option: str, path: str) -> int:
    """Return an fd of a file to write at the end: opened before the run, so that one that can't be written is refused before it."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise SpecError(option, path, str(error.strerror)) from None


def _write_status(fd: int, result: Result) -> None:
    if fd >= 0:
        os.write(fd, fastjson.dumps(result.to_json()).encode() + b"\n")
        os.close(fd)
