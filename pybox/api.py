"""pybox.run: a job in a container, in the shape of subprocess.run."""

from __future__ import annotations

from typing import TypedDict

from pybox import dirs, state
from pybox.errors import SpecError
from pybox.result import Result
from pybox.runtime import Options, Runtime
from pybox.spec import NO_NET, Limits, Mount, Net, Rlimit, Spec
from pybox.text import parse_capability, parse_ulimit, parse_volume
from pybox.units import parse_bytes, parse_cpus, parse_int, parse_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Unpack

    from pybox.spec import Share, Upper
    from pybox.supervise import Sink


class _Shared:
    """The Runtime of this process, one for each pair of directories: facts, plans and user namespaces are made once."""

    def __init__(self) -> None:
        self._runtimes: dict[dirs.Dirs, Runtime] = {}

    def runtime(self) -> Runtime:
        """Return it; the first time, what killed pyboxes left behind is swept up."""
        where = dirs.current()
        if where not in self._runtimes:
            self._runtimes[where] = Runtime(where)
            try:
                state.sweep(where)
            except OSError:  # somebody else's leftover: `pybox gc` names it
                pass
        return self._runtimes[where]


_SHARED = _Shared()


def shared() -> Runtime:
    """Return the Runtime that this process uses for all its runs."""
    return _SHARED.runtime()


class Container(TypedDict, total=False):
    """What a container may be asked to be, for `run`, `popen`, `Job` and the others alike; `run` explains each."""

    memory: int | str | None
    memory_swap: int | str | None
    cpus: float | None
    cpu_shares: int | None
    cpuset_cpus: str | None
    pids: int | None
    oom_score_adj: int | None
    storage_size: int | str | None
    env: Mapping[str, str] | None
    mounts: Mapping[str, str] | Iterable[str | Mount | dict[str, object]]
    ulimits: Iterable[str | Rlimit]
    user: str | int
    workdir: str
    hostname: str
    entrypoint: str | Sequence[str] | None
    network: str | Sequence[str]
    ip: str | Sequence[str]
    mac_address: str
    dns: Sequence[str]
    add_host: Sequence[str]
    publish: Sequence[str]
    publish_all: bool
    allow_net: Sequence[str] | None
    net_rate: int | str | None
    pid: Share
    ipc: Share
    uts: Share
    userns: bool
    read_only: bool
    upper: Upper
    cap_add: Iterable[str]
    cap_drop: Iterable[str]
    seccomp: str
    no_new_privs: bool
    best_effort: bool
    init: bool
    hpc: bool


def run(
    image: str,
    args: Sequence[str] = (),
    *,
    timeout: float | str | None = None,
    input: bytes | str | None = None,
    capture: bool = True,
    stdout: Sink | None = None,
    stderr: Sink | None = None,
    name: str = "",
    check: bool = False,
    **container: Unpack[Container],
) -> Result:
    """Run a command in a new container, wait for its end, and return what happened and what it cost.

    Args:
        image: a name of `pybox images`, or ``host`` for the machine's own root under a throw-away layer.
        args: the command; empty runs the image's own.
        memory: bytes, or text like ``"64M"``; the container is killed when it needs more (``reason == "oom"``).
        memory_swap: bytes of memory and swap together; -1 unlimited; unset: as much swap as memory, as in docker.
        cpus: CPUs' worth of time, 0.5 is half of one. cpu_shares: weight, 1024 is normal. cpuset_cpus: ``"0-1,3"``.
        pids: most processes and threads at once, pybox-init included.
        oom_score_adj: -1000 to 1000, see proc_pid_oom_score_adj(5).
        storage_size: bytes that the writable layer may hold; more fails with ENOSPC, on ext4 (``upper="disk"``) with EDQUOT.
        timeout: seconds, after which the whole container is killed (``reason == "timeout"``); no exception.
        env: variables, added to the image's.
        mounts: ``{"/host/dir": "/in/container"}``, or ``["/host/dir:/in/container:ro", "name:/a/volume", "/a/volume/of/its/own"]``,
            or Mounts (``Mount("/at", image="other")`` shows an image).
        ulimits: ``["nofile=1024:4096"]``.
        user: ``name|uid[:group|gid]``, resolved from the image.
        workdir, hostname, entrypoint: as in `pybox run`.
        pid, ipc, uts: ``"host"`` shares the host's namespace.
        network: ``"none"``, ``"host"``, ``"pybox"``, another network's name or several, ``"container:ID"``; ``"pybox"`` when one of
            the following is given. publish: ``["8080:80"]``. allow_net: ``["pypi.org:443", "10.0.0.0/8"]``, and nothing else;
            an empty list is nothing at all. net_rate: bits a second. ip, mac_address, dns, add_host, publish_all: as `pybox run`.
        userns: an own user namespace, for root; a plain user always gets one.
        read_only: the root file system can't be written.
        upper: ``"disk"`` keeps what the container writes to its root on disk; by default it is in memory, counts
            against the memory limit, and is gone afterwards.
        cap_add, cap_drop: capability names, or ``ALL``. seccomp: ``"unconfined"`` or a profile's path.
        no_new_privs: False lets set-user-ID programs work.
        best_effort: run without limits that this host can't enforce; ``Result.effective`` says which.
        input: for stdin. capture: collect stdout and stderr; False passes the caller's streams through.
        stdout, stderr: instead of that, a file (anything with ``fileno()``, or an fd) that the command writes to itself, or a
            function that is called with each line (bytes, with its newline) as it is written.
        init: pybox-init as process 1; False makes the command process 1.
        hpc: run in the caller's place, with the environment, the ids and the directories of this process: docs/engines.md.
        name: a name for `pybox ps`, while it runs.
        check: raise JobError unless the command ends with 0.

    Raises:
        ImageNotFound, SpecError, LimitError: nothing was started; what was asked for can't be.
        ProgramNotFound, ExecError: the container was made, but the command can't be executed in it.
        StepFailed: the kernel refused a step. JobError: with ``check``, see above.
        KeyboardInterrupt and other exceptions of signal handlers pass through; the container is killed first.
    """
    options = options_of(timeout=timeout, input=input, capture=capture, stdout=stdout, stderr=stderr, name=name)
    result = shared().run(spec_of(image, args, container), options)
    return result.check() if check else result


def options_of(
    *,
    timeout: float | str | None,
    input: bytes | str | None,
    capture: bool,
    stdout: Sink | None,
    stderr: Sink | None,
    name: str,
) -> Options:
    """Return what is asked of a run beside the container. Raises SpecError."""
    return Options(
        capture=capture,
        feed=input.encode() if isinstance(input, str) else input,
        timeout=parse_seconds("timeout", timeout),
        name=state.check_name(name) if name else "",
        stdout=stdout,
        stderr=stderr,
    )


def spec_of(image: str, args: Sequence[str], container: Container) -> Spec:
    """Return the Spec of what was asked for. Raises SpecError, and TypeError for an option that does not exist."""
    if isinstance(args, (str, bytes)):
        raise SpecError("args", args, "must be a list of words, not one string", 'e.g. ["sh", "-c", "..."]')
    for option in container:
        if option not in Container.__annotations__:
            raise TypeError(f"pybox: no option {option!r}")
    network, net = _network(container)
    entrypoint = container.get("entrypoint")
    memory_swap = container.get("memory_swap")
    spec = Spec(
        image=image,
        args=tuple(args),
        entrypoint=None if entrypoint is None else (entrypoint,) if isinstance(entrypoint, str) else tuple(entrypoint),
        env=tuple((container.get("env") or {}).items()),
        user=str(container.get("user", "")),
        workdir=container.get("workdir", ""),
        hostname=container.get("hostname", ""),
        mounts=tuple(_mounts(container.get("mounts", ()))),
        limits=Limits(
            memory=parse_bytes("memory", container.get("memory")),
            memory_swap=-1 if memory_swap in (-1, "-1") else parse_bytes("memory-swap", memory_swap),
            cpus=parse_cpus("cpus", container.get("cpus")),
            cpu_shares=parse_int("cpu-shares", container.get("cpu_shares"), 2, 262144),
            cpuset_cpus=container.get("cpuset_cpus"),
            pids=parse_int("pids-limit", container.get("pids"), 1, 1 << 22),
            oom_score_adj=parse_int("oom-score-adj", container.get("oom_score_adj"), -1000, 1000),
            storage_size=parse_bytes("storage-size", container.get("storage_size")),
        ),
        rlimits=tuple(parse_ulimit(limit) if isinstance(limit, str) else limit for limit in container.get("ulimits", ())),
        network=network,
        net=net,
        pid=container.get("pid", "private"),
        ipc=container.get("ipc", "private"),
        uts=container.get("uts", "private"),
        userns=container.get("userns", False),
        read_only=container.get("read_only", False),
        upper=container.get("upper", ""),
        init=container.get("init", True),
        cap_add=tuple(parse_capability(cap) for cap in container.get("cap_add", ())),
        cap_drop=tuple(parse_capability(cap) for cap in container.get("cap_drop", ())),
        seccomp=container.get("seccomp", ""),
        no_new_privs=container.get("no_new_privs", True),
        best_effort=container.get("best_effort", False),
    )
    if container.get("hpc"):
        from pybox.hpc import settle

        spec = settle(spec, container.keys())
    return spec


_NETWORKING = frozenset(("network", "ip", "mac_address", "dns", "add_host", "publish", "publish_all", "allow_net", "net_rate"))


def _network(container: Container) -> tuple[str, Net]:
    if _NETWORKING.isdisjoint(container):
        return "none", NO_NET
    words = _words(container.get("network", ()))
    allow = container.get("allow_net")
    rate = container.get("net_rate")
    if isinstance(rate, str):
        from pybox.netspec import parse_rate

        rate = parse_rate("net-rate", rate)
    net = Net(
        ip=_words(container.get("ip", ())),
        mac=container.get("mac_address", ""),
        dns=_words(container.get("dns", ())),
        hosts=_words(container.get("add_host", ())),
        ports=_words(container.get("publish", ())),
        publish_all=container.get("publish_all", False),
        allow=() if allow is None else _words(allow) or ("none",),
        rate=None if rate is None else round(rate),
    )
    return ",".join(words) or ("none" if net == NO_NET else "pybox"), net


def _words(words: str | Sequence[str]) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else tuple(map(str, words))


def _mounts(mounts: Mapping[str, str] | Iterable[str | Mount | dict[str, object]]) -> list[Mount]:
    if hasattr(mounts, "items"):
        return [parse_volume(f"{source}:{target}") for source, target in mounts.items()]
    return [
        parse_volume(mount) if isinstance(mount, str) else Mount.of(mount) if isinstance(mount, dict) else mount
        for mount in mounts
    ]
