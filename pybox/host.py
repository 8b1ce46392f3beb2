"""Facts: what is true on this host, as far as a plan depends on it. The only module that probes; it changes nothing.

`pybox doctor` probes more, by doing (doctor.py); a run looks at a handful of files.
"""

from __future__ import annotations

import posix as os

from pybox.paths import environment, exists, is_dir
from pybox.record import Record

MASKED = (  # facts/security.md 2: what docker and podman hide, of proc_pid(5), and the side channels of 2024-26
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
)
SELF_GROUP = "pybox-self"
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_CPUS = "/sys/devices/system/cpu"


class Cgroups(Record):
    """Where control groups can be made: the cgroup2 tree, and beside it the v1 hierarchies of a hybrid host."""

    unified: str | None = None  # directory below which our cgroup2 groups go
    controllers: frozenset[str] = frozenset()  # that groups below it can have
    problem: str = ""  # why unified can't be used for limits
    fix: str = ""
    v1: tuple[tuple[str, str], ...] = ()  # (controller, our own group's directory)
    swap: bool = True  # the host has swap at all
    nodes: str = "0"  # memory nodes of our own v1 cpuset

    @property
    def pure(self) -> bool:
        """Whether this is a cgroup v2 host: limits through the unified tree."""
        return self.unified is not None and not self.v1


class Facts(Record):
    """What is true on this host, for this caller."""

    uid: int
    root: bool  # the machine's root, not that of a user namespace
    gid: int
    machine: str
    release: str
    last_cap: int
    cgroups: Cgroups
    masked: tuple[tuple[str, bool], ...]  # (path, is a directory) of MASKED that this kernel has
    read_only: tuple[str, ...]
    cpus: int
    subuid: tuple[int, int] | None = None  # (first, count) granted to a plain user in /etc/subuid
    subgid: tuple[int, int] | None = None
    capabilities: int = 0  # effective, as a mask
    tmpfs_user_xattr: bool = True  # Linux 6.6; overlayfs of a plain user keeps its notes in them


def read(path: str, default: str = "") -> str:
    """Return a small file's text, or the default when it can't be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return default
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts).decode(errors="replace")
    except OSError:
        return default
    finally:
        os.close(fd)


def lines_of(text: str) -> list[str]:
    """Return the lines of a file of /proc with names in it, which may have what else Python takes for the end of a line."""
    return text.split("\n")[:-1]


def keyed(text: str) -> dict[str, int]:
    """Return the numbers of a flat keyed file, cgroups(7): one "name number" a line."""
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def probe() -> Facts:
    """Look at the host. Costs well under a millisecond; raises nothing: what can't be read is reported as absent."""
    uname = os.uname()
    uid = os.geteuid()
    # root of a user namespace has the number, but none of the host's rights: it goes the plain user's way
    root = uid == 0 and read("/proc/self/uid_map").split() == ["0", "0", "4294967295"]
    helpers = not root and _in_path("newuidmap") and _in_path("newgidmap")
    status = read("/proc/self/status")
    effective = status.partition("CapEff:")[2][:18].strip() or "0"
    return Facts(
        uid=uid,
        root=root,
        gid=os.getegid(),
        machine=uname.machine,
        release=uname.release,
        last_cap=int(read("/proc/sys/kernel/cap_last_cap", "40")),
        cgroups=probe_cgroups(root),
        masked=_masked(),
        read_only=tuple(path for path in READ_ONLY if exists(path)),
        cpus=os.cpu_count() or 1,
        subuid=_subordinate("/etc/subuid", uid) if helpers else None,
        subgid=_subordinate("/etc/subgid", uid) if helpers else None,
        capabilities=int(effective, 16),
        tmpfs_user_xattr=_version(uname.release) >= (6, 6),
    )


def top_entries() -> tuple[tuple[str, str, bool], ...]:
    """Return (name, link, has mounts below) of the directories and symlinks of /, without those that the kernel makes up."""
    targets = [line.split(" ")[4] for line in lines_of(read("/proc/self/mountinfo"))]
    found = []
    with os.scandir("/") as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name in ("dev", "proc", "sys", "run", "lost+found"):
                continue
            below = any(target.startswith(f"/{entry.name}/") for target in targets)
            if entry.is_symlink():
                found.append((entry.name, os.readlink(entry.path), False))
            elif entry.is_dir():
                found.append((entry.name, "", below))
    return tuple(found)


def _version(release: str) -> tuple[int, int]:
    major, _, rest = release.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return (int(major), int(digits)) if major.isdigit() and digits else (0, 0)


def _masked() -> tuple[tuple[str, bool], ...]:
    found = []
    for path in MASKED:
        try:
            found.append((path, os.stat(path).st_mode & 0o170000 == 0o040000))
        except OSError:
            pass
    try:
        names = os.listdir(_CPUS)
    except OSError:
        names = []
    for name in names:
        path = f"{_CPUS}/{name}/thermal_throttle"
        if name.startswith("cpu") and name[3:].isdigit() and is_dir(path):
            found.append((path, True))
    return tuple(found)


def _in_path(program: str) -> bool:
    return any(os.access(f"{directory}/{program}", os.X_OK) for directory in environment().get("PATH", "").split(":"))


def _subordinate(path: str, uid: int) -> tuple[int, int] | None:
    """Return the caller's first range of a subuid(5) file."""
    text = read(path)
    if not text:
        return None
    names = {str(uid)}
    for line in read("/etc/passwd").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[2] == str(uid):
            names.add(fields[0])
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) == 3 and fields[0] in names and fields[1].isdigit() and fields[2].isdigit() and int(fields[2]) > 0:
            return int(fields[1]), int(fields[2])
    return None


def probe_cgroups(root_user: bool) -> Cgroups:
    """Find where groups can be made; see cgroups(7). Only reads: whether a limit really holds is seen when it is written."""
    own: dict[str, str] = {}
    for line in lines_of(read("/proc/self/cgroup")):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            own[controller] = path.removesuffix("/")
    unified_mount, v1_mounts = None, {}
    for line in lines_of(read("/proc/self/mountinfo")):
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        fields = left.split(" ")
        root, mountpoint = fields[3].removesuffix("/"), fields[4].replace("\\040", " ")
        if kind == "cgroup2":
            unified_mount = unified_mount or (root, mountpoint)
            continue
        for controller in options.split(","):
            if controller in own:
                v1_mounts[controller] = mountpoint + own[controller].removeprefix(root)
    v1 = tuple((name, v1_mounts[name]) for name in ("memory", "pids", "cpu", "cpuset", "freezer", "devices") if name in v1_mounts)
    swap = read("/proc/swaps").count("\n") > 1
    if unified_mount is None:
        return Cgroups(problem="no cgroup2 file system is mounted", v1=v1, swap=swap)
    root, mountpoint = unified_mount
    here = mountpoint + own.get("", "").removeprefix(root)
    if v1:
        nodes = read(f"{v1_mounts['cpuset']}/cpuset.mems").strip() if "cpuset" in v1_mounts else ""
        return Cgroups(
            unified=here if root_user else None,
            v1=v1 if root_user else (),
            problem="cgroup v1 (hybrid) host",
            swap=swap,
            nodes=nodes or "0",
        )
    if root_user:
        # not below our own group: the no-internal-process rule of cgroups(7) forbids controllers in a group that has processes
        available = frozenset(read(f"{mountpoint}/cgroup.controllers").split())
        return Cgroups(unified=mountpoint, controllers=available, swap=swap)
    return _delegated(here, swap)


def _delegated(here: str, swap: bool) -> Cgroups:
    """Judge a plain user's own group: usable when systemd (or an administrator) has delegated it."""
    here = here.removesuffix(f"/{SELF_GROUP}")  # where an earlier run has moved us out of the way
    fix = "run it through: systemd-run --user --scope -p Delegate=yes pybox ..."
    if not os.access(here, os.W_OK) or not os.access(f"{here}/cgroup.subtree_control", os.W_OK):
        return Cgroups(problem=f"{here} is not delegated to uid {os.geteuid()}", fix=fix, swap=swap)
    return Cgroups(unified=here, controllers=frozenset(read(f"{here}/cgroup.controllers").split()), fix=fix, swap=swap)
