"""Spec: what is wanted of one container, frozen and checked. Nothing here looks at the host or at the image.

The command line, a job file and ``pybox.run`` all end here; what a Spec refuses, no door lets in. Field names are those of the
command line's options, which are docker's.
"""

from __future__ import annotations

from pybox.errors import SpecError
from pybox.paths import encode
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Share = Literal["private", "host"]
    Upper = Literal["", "memory", "disk"]

ID_MAX = 4294967294  # (uid_t) -1 means "no change" to the kernel


def no_nul(field: str, value: str) -> None:
    """Refuse text that the kernel would cut at its NUL."""
    if "\0" in value:
        raise SpecError(field, value, "contains a NUL character")
    try:
        encode(value)
    except UnicodeEncodeError:
        raise SpecError(field, ascii(value), "contains half a surrogate pair, which no file system encoding can spell") from None


def container_path(field: str, path: str) -> None:
    """Refuse a path that does not name a place inside the container."""
    no_nul(field, path)
    if not path.startswith("/"):
        raise SpecError(field, path, "must be an absolute path")
    if len(path) >= 4096:
        raise SpecError(field, path[:40] + "...", "longer than PATH_MAX, 4096")
    if ".." in path.split("/"):
        raise SpecError(field, path, "must not contain '..'")


# Mounts there would hide or forge the kernel's own files (CVE-2019-16884, CVE-2023-27561); lxcfs is the known good user.
PROC_OK = frozenset(
    f"/proc/{name}" for name in ("cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo")
)


class Mount(Record):
    """One entry of ``-v``, ``--mount`` or ``--tmpfs``: a bind of the host's ``source``, an ``image``, else a fresh tmpfs."""

    target: str  # in the container
    source: str | None = None  # on the host, absolute
    read_only: bool = False
    size: int | None = None  # bytes, tmpfs only
    mode: int = 0o1777  # tmpfs only
    exec: bool = False  # tmpfs only: docker's default is noexec
    image: str = ""  # a name or an id; where it can be written, that is thrown away with the container
    anonymous: bool = False  # source is a volume that is made for this container, and goes with it by --rm or `rm -v`

    def validate(self) -> None:
        """Refuse targets that are not places, or that are the kernel's."""
        container_path("volume", self.target)
        path = "/" + "/".join(part for part in self.target.split("/") if part not in ("", "."))
        if path == "/":
            raise SpecError(
                "volume", self.target, "the root can't be mounted over", "give an image name or a directory to import"
            )
        if path in ("/proc", "/sys", "/dev") or (path.startswith(("/proc/", "/sys/")) and path not in PROC_OK):
            raise SpecError("volume", self.target, "belongs to the kernel's own file systems", "mount it elsewhere")
        if self.image:
            no_nul("mount", self.image)
            if self.source is not None or self.image == "host":
                raise SpecError(
                    "mount", self.image, "an image of the store has no source beside it", "-v /:/host:ro shows the host"
                )
        if self.source is not None:
            no_nul("volume", self.source)
            if not self.source.startswith("/"):
                raise SpecError("volume", self.source, "the host side must be an absolute path", "or the name of a volume")


class Limits(Record):
    """What the container may use. None means: as much as the caller."""

    memory: int | None = None  # bytes
    memory_swap: int | None = None  # bytes of memory and swap together, as docker counts; -1 unlimited
    cpus: float | None = None  # CPUs' worth of time
    cpu_shares: int | None = None  # relative weight, 1024 is normal
    cpuset_cpus: str | None = None  # "0-1,3"
    pids: int | None = None  # processes and threads, pybox-init included
    oom_score_adj: int | None = None
    storage_size: int | None = None  # bytes of the writable layer

    def validate(self) -> None:
        """Refuse limits that no kernel would take."""
        if self.memory is not None and self.memory < 512 * 1024:
            raise SpecError("memory", self.memory, "must be at least 512K: the kernel's own share of a process")
        if self.memory_swap is not None:
            if self.memory is None:
                raise SpecError("memory-swap", self.memory_swap, "needs --memory", "it is memory and swap together")
            if self.memory_swap != -1 and self.memory_swap < self.memory:
                raise SpecError(
                    "memory-swap", self.memory_swap, "must not be less than --memory", "it is memory and swap together"
                )
        if self.cpus is not None and not 0.01 <= self.cpus <= 100_000:
            raise SpecError("cpus", self.cpus, "must be at least 0.01", "0.5 is half of one CPU")
        if self.cpu_shares is not None and not 2 <= self.cpu_shares <= 262144:
            raise SpecError("cpu-shares", self.cpu_shares, "must be between 2 and 262144")
        if self.pids is not None and self.pids < 1:
            raise SpecError("pids-limit", self.pids, "must be at least 1")
        if self.oom_score_adj is not None and not -1000 <= self.oom_score_adj <= 1000:
            raise SpecError("oom-score-adj", self.oom_score_adj, "must be between -1000 and 1000")
        if self.cpuset_cpus is not None:
            parse_cpuset(self.cpuset_cpus)
        if self.storage_size is not None and self.storage_size < 1 << 20:
            raise SpecError("storage-size", self.storage_size, "must be at least 1M")


def parse_cpuset(text: str) -> frozenset[int]:
    """Return the CPUs of a list like ``0-1,3``. Raises SpecError."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isascii() and first.isdigit() and (not dash or (last.isascii() and last.isdigit()))) or len(part) > 12:
            raise SpecError("cpuset-cpus", text, "not a list of CPUs, e.g. 0-1,3")
        low, high = int(first), int(last or first)
        if low > high or high > 8191:
            raise SpecError("cpuset-cpus", text, "not a list of CPUs, e.g. 0-1,3")
        cpus.update(range(low, high + 1))
    return frozenset(cpus)


class Rlimit(Record):
    """One ``--ulimit NAME=SOFT[:HARD]``; -1 is unlimited. getrlimit(2)."""

    name: str  # without RLIMIT_, lower case
    soft: int
    hard: int

    def validate(self) -> None:
        """Refuse a soft limit above the hard one."""
        if self.name not in RLIMITS:
            raise SpecError("ulimit", self.name, "no such limit", "one of " + " ".join(RLIMITS))
        if self.hard != -1 and (self.soft == -1 or self.soft > self.hard):
            raise SpecError("ulimit", f"{self.name}={self.soft}:{self.hard}", "the soft limit is above the hard one")


RLIMITS = "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()


class Net(Record):
    """What is asked of the network, for a container that has one; as text, which netspec.py reads."""

    ip: tuple[str, ...] = ()  # IPv4 or IPv6, on the first network
    mac: str = ""
    dns: tuple[str, ...] = ()  # name servers
    hosts: tuple[str, ...] = ()  # "NAME:IP" for its hosts file
    ports: tuple[str, ...] = ()  # "[IP:][HOST:]CONTAINER[/udp]"
    publish_all: bool = False  # those that the image exposes, too
    allow: tuple[str, ...] = ()  # "HOST[:PORT]", a block of addresses, "none": everything else is refused
    rate: int | None = None  # bits a second, each way


NO_NET = Net()


class Spec(Record):
    """One container, as asked for. Frozen; a Spec that exists makes sense by itself."""

    image: str
    args: tuple[str, ...] = ()  # empty: the image's own command
    entrypoint: tuple[str, ...] | None = None  # None: the image's; (): none
    env: tuple[tuple[str, str], ...] = ()
    user: str = ""  # "name|uid[:group|gid]"; "" the image's
    workdir: str = ""  # "" the image's, else /
    hostname: str = ""  # "" the container's id
    mounts: tuple[Mount, ...] = ()
    limits: Limits = Limits()
    rlimits: tuple[Rlimit, ...] = ()
    network: str = "none"  # or host, container:ID, or names of networks with commas between
    net: Net = NO_NET
    pid: Share = "private"
    ipc: Share = "private"
    uts: Share = "private"
    userns: bool = False  # own user namespace, for root; a plain user always has one
    keep_id: bool = False  # a plain user has their own id in it, and no other
    read_only: bool = False
    upper: Upper = ""  # where the writable layer is; "" in memory if it is thrown away, on disk if it is kept
    init: bool = True
    system: bool = False  # process 1 is an init of the image's own, system.py
    umask: int = 0o022
    tty: bool = False  # a terminal of its own: pty(7)
    stop_signal: str = ""  # "" the image's, else TERM; what `pybox stop` sends
    cap_add: tuple[str, ...] = ()  # "CAP_NET_RAW", or "ALL"
    cap_drop: tuple[str, ...] = ()
    seccomp: str = ""  # "" the default, "unconfined", or the path of a profile
    no_new_privs: bool = True
    best_effort: bool = False

    def takes_spare_network(self, root: bool) -> bool:
        """Return whether its network namespace can be made beforehand, by ``root``: one that no user namespace has to own."""
        return self.network != "host" and not self.network.startswith("container:") and root and not self.userns

    def validate(self) -> None:
        """Refuse what can't be meant."""
        if not self.image or self.image.startswith("-"):
            raise SpecError("image", self.image, "not an image name")
        for field in ("image", "user", "workdir", "hostname"):
            no_nul(field, getattr(self, field))
        for word in (*self.args, *(self.entrypoint or ())):
            if not isinstance(word, str):
                raise SpecError("args", word, "must be text")
            no_nul("args", word)
        for name, value in self.env:
            if not isinstance(name, str) or not name or "=" in name:
                raise SpecError("env", name, "not a variable name")
            if not isinstance(value, str):
                raise SpecError("env", value, f"the value of {name} must be text")
            no_nul("env", name + value)
        if self.workdir:
            container_path("workdir", self.workdir)
        if self.hostname and (len(self.hostname) > 64 or not _is_hostname(self.hostname)):
            raise SpecError("hostname", self.hostname, "must be letters, digits, '-' and '.', 64 at most")
        if self.hostname and self.uts == "host":
            raise SpecError("hostname", self.hostname, "can't be set together with --uts host: it would rename the host")
        words = (
            ("pid", _SHARE),
            ("ipc", _SHARE),
            ("uts", _SHARE),
            ("upper", ("", "memory", "disk")),
        )
        for field, allowed in words:
            if getattr(self, field) not in allowed:
                raise SpecError(field, getattr(self, field), "must be " + " or ".join(filter(None, allowed)))
        if self.network not in ("none", "host") or self.net != NO_NET:
            from pybox import netspec  # who has no network pays nothing for it

            netspec.validate(self.network, self.net)
        if len(self.mounts) > 1:
            from os.path import normpath

            targets = [normpath(mount.target.lstrip("/")) for mount in self.mounts]
            for target in targets:
                if targets.count(target) > 1:
                    raise SpecError("volume", f"/{target}", "is mounted twice")
        if self.user:
            parse_user(self.user)
        if self.stop_signal:
            parse_signal(self.stop_signal)
        if self.system and self.pid == "host":
            raise SpecError("pid", self.pid, "can't be together with --system", "an init must be process 1")
        for cap in (*self.cap_add, *self.cap_drop):
            if not cap.startswith("CAP_") and cap != "ALL":
                raise SpecError("cap-add", cap, "not a capability name, e.g. CAP_NET_RAW or ALL")


_SHARE = ("private", "host")


def parse_signal(text: str) -> int:
    """Return the number of a signal: ``TERM``, ``SIGTERM``, ``15`` or ``RTMIN+3``; signal(7). Raises SpecError."""
    import _signal

    name = text.upper().removeprefix("SIG")
    base, plus, more = name.partition("+")
    number = getattr(_signal, f"SIG{base}", 0) if base.isalnum() and not base.isdigit() else 0
    if name.isascii() and name.isdigit() and len(name) <= 2:
        number = int(name)
    elif plus and base == "RTMIN" and more.isascii() and more.isdigit() and len(more) <= 2:
        number += int(more)
    elif plus:
        number = 0
    if not 1 <= number <= 64:
        raise SpecError("signal", text, "no such signal", "a name like TERM, or a number from 1 to 64")
    return int(number)


def _is_hostname(name: str) -> bool:
    plain = name.replace("-", "").replace(".", "").replace("_", "")
    return plain.isascii() and plain.isalnum() and name[0] not in "-."


def _check_id(user: str, part: str) -> str | int:
    if not part or part.isspace():
        raise SpecError("user", user, "must be name|uid[:group|gid]")
    if part.isascii() and part.isdigit():
        if len(part) > 10 or int(part) > ID_MAX:
            raise SpecError("user", user, f"ids go from 0 to {ID_MAX}")
        return int(part)
    if part[0] in "-+" or any(c.isspace() or c in ":/,\0" or not c.isprintable() for c in part):
        raise SpecError("user", user, "must be name|uid[:group|gid]")
    return part


def parse_user(user: str) -> tuple[str | int, str | int | None]:
    """Split ``--user`` into user and group, each a name or a number; group None means: the user's own.

    Strict, because a lenient parser ran ``exec -u`` as somebody else (CVE-2026-30892). Raises SpecError.
    """
    name, colon, group = user.partition(":")
    return _check_id(user, name), _check_id(user, group) if colon else None
