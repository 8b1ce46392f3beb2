"""The root file system: what a container sees of files. mount_namespaces(7), pivot_root(2), overlayfs.rst

stack     while the host is in sight: the overlay of the layers, and hold of every source that will be mounted
steps     pivot; the kernel's file systems; let go of the host; then volumes, opened inside the root
"""

from __future__ import annotations

from pybox.errors import LimitError
from pybox.kernel import cgroup
from pybox.kernel.inputs import Inputs
from pybox.kernel.namespaces import FIRST_ID
from pybox.spec import PROC_OK, Mount
from pybox.steps.base import ChildStep, HostStep
from pybox.steps.hostside import MakeUpper
from pybox.steps.mounts import (
    BindOnItself,
    Cover,
    DetachOldRoot,
    MakeReadOnly,
    MapLayer,
    MountKernelFs,
    MountOverlay,
    OpenSource,
    PivotRoot,
    PlaceMount,
    PrivateMounts,
    SetMountFlags,
)
from pybox.steps.places import (
    EnterPlace,
    EnterWorkdir,
    GoTo,
    MakeDirectory,
    MakeFile,
    MakeNode,
    MakeSymlink,
    OpenTarget,
    RealDirectory,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

NODES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
LINKS = (("/proc/self/fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr"), ("pts/ptmx", "ptmx"))
_OPTIONS_MOST = 3500  # bytes for the layers; mount(2) takes a page of options, 4096, and cuts the rest off
_QUIET = ("MS_NOSUID", "MS_NODEV", "MS_NOEXEC")


def prepare(given: Inputs) -> Iterator[HostStep]:
    """Yield the writable layer, where it is on disk."""
    if given.upper_in_memory:
        return
    path, owner = f"{given.dirs.uppers}/CONTAINER-ID", FIRST_ID if given.mapped_by_root else None
    size = given.spec.limits.storage_size
    if given.disk and size is not None:
        from pybox.steps.disk import AttachDisk, MakeDisk  # who has no such limit does not pay for it

        yield MakeDisk(path, owner, size)
        yield AttachDisk(path)
        return
    yield MakeUpper(path, owner)
    if size is not None and not given.no_quota:
        from pybox.steps.quota import SetQuota

        yield SetQuota(path, size)


def effective(given: Inputs) -> tuple[tuple[str, str], ...]:
    """Return what enforces the size of the writable layer, if one is asked for. Raises LimitError unless --best-effort."""
    if given.spec.limits.storage_size is None:
        return ()
    if given.upper_in_memory or given.disk or not given.no_quota:
        return (("--storage-size", "tmpfs" if given.upper_in_memory else "loop" if given.disk else "project quota"),)
    why = "; ".join(filter(None, (given.no_quota, given.no_loop)))
    if given.spec.best_effort:
        return (("--storage-size", f"none: {why}"),)
    hints = ["mount ext4 or xfs with prjquota, and let PYBOX_STORE lie there"]
    if given.keep_upper:
        hints.insert(0, "with --rm it is in memory, which can be limited")
    if given.no_loop:
        from pybox.steps.disk import remedy

        hints.append(remedy(given.no_loop))
    raise LimitError(f"cannot enforce --storage-size: the writable layer is on disk, and {why}", "; or ".join(hints))


def _files(given: Inputs) -> tuple[tuple[str, str, bool], ...]:
    """Return (name, text, contains the id) of the files of /etc that tell a program where it is."""
    name = given.spec.hostname or "CONTAINER-ID"
    mine = not given.spec.hostname
    hosts = f"127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost ip6-loopback {name}\n"
    files = []
    if given.spec.uts == "private":
        files.append(("hostname", name + "\n", mine))
    if given.spec.network == "none":
        files += [("hosts", hosts, mine), ("resolv.conf", "# no network, no name servers\n", False)]
    elif given.spec.network != "host":
        files.append(("resolv.conf", given.resolvers, False))
        if _hosts_kept(given) == "":
            more = (word.partition(":") for word in given.spec.net.hosts)
            files.append(("hosts", hosts + "".join(f"{address.strip('[]')}\t{name}\n" for name, _, address in more), mine))
    return tuple(files)


def _hosts_kept(given: Inputs) -> str:
    """Return the path of a hosts file that changes as neighbours come and go (network/names.py), "" when there is none."""
    return f"{given.dirs.state}/CONTAINER-ID/hosts" if given.networks else ""


def _files_in_upper(given: Inputs) -> bool:
    """Whether they can simply be written into the writable layer: it is thrown away unseen, and three mounts are saved."""
    return given.upper_in_memory and given.etc_mode is not None and not given.top


def stack(given: Inputs) -> Iterator[ChildStep]:
    """Yield the overlay and the taking hold of sources: all that needs the host in sight."""
    yield PrivateMounts()
    yield GoTo(given.dirs.store)
    size = given.spec.limits.storage_size if given.upper_in_memory else None
    yield MountKernelFs("tmpfs", "scratch", _QUIET, "mode=0755" + (f",size={size}" if size is not None else ""))
    if not _files_in_upper(given):
        for name, text, mine in _files(given):
            yield MakeFile(f"scratch/{name}", text, mine=mine)
            yield OpenSource(f"scratch/{name}", f"etc:{name}", recursive=False)
    below = yield from layers(given, given.image.layers)
    if given.disk:
        from pybox.steps.disk import MountDisk

        yield MountDisk(given.dirs.disk("CONTAINER-ID"), "uppers/CONTAINER-ID")
    own = "scratch" if given.upper_in_memory else "uppers/CONTAINER-ID"
    if given.upper_in_memory:
        yield MakeDirectory("scratch/u")
        yield MakeDirectory("scratch/w")
    if _files_in_upper(given):
        yield MakeDirectory("scratch/u/etc", given.etc_mode or 0)
        for name, text, mine in _files(given):
            yield MakeFile(f"scratch/u/etc/{name}", text, mine=mine)
    if given.top:
        yield from _own_root(given, own)
    else:
        yield _overlay(given, below, own, "", "mnt")
    for name, path in _host_sources(given):
        yield OpenSource(path, name, mine=path == _hosts_kept(given))
        if path == _hosts_kept(given):
            yield SetMountFlags(name, ("MOUNT_ATTR_RDONLY", "MOUNT_ATTR_NOSUID", "MOUNT_ATTR_NODEV", "MOUNT_ATTR_NOEXEC"))
    for number, (mount, kind) in enumerate(zip(given.spec.mounts, given.sources, strict=True)):
        source = mount.source
        if mount.image:
            from pybox.kernel import images  # who shows none does not pay for it

            yield from images.steps(given, number, mount)
            source = images.place(number)
        if source is not None:
            yield OpenSource(source, f"volume{number}", recursive=not mount.image)
            flags = ["MOUNT_ATTR_RDONLY"] if mount.read_only else []
            flags += ["MOUNT_ATTR_NOSUID"] if kind == "device" else ["MOUNT_ATTR_NOSUID", "MOUNT_ATTR_NODEV"]
            yield SetMountFlags(f"volume{number}", tuple(flags))
    yield GoTo("mnt")


def layers(given: Inputs, paths: tuple[str, ...], prefix: str = "scratch/l") -> Generator[ChildStep, None, tuple[str, ...]]:
    """Yield what makes layers fit to be stacked; returns their paths, topmost first.

    Root of a mapped user namespace sees them through its id map. More than fit into mount's page, about 80, get short names.
    """
    below = tuple(layer.removeprefix(f"{given.dirs.store}/") for layer in paths)
    short = tuple(f"{prefix}{number}" for number in range(len(below)))
    if given.mapped_by_root:
        for layer, name in zip(below, short, strict=True):
            yield MakeDirectory(name)
            yield MapLayer(layer, name)
        return short
    if len(":".join(below)) > _OPTIONS_MOST:
        for layer, name in zip(below, short, strict=True):
            yield MakeSymlink(f"../{layer}", name)
        return short
    return below


def _overlay(given: Inputs, below: tuple[str, ...], own: str, name: str, target: str) -> MountOverlay:
    # a layer that nobody will look at after a crash need not reach the disk; in memory there is none
    volatile = not (given.keep_upper or given.upper_in_memory)
    return MountOverlay(below, f"{own}/u{name}", f"{own}/w{name}", target, userxattr=not given.facts.root, throw_away=volatile)


def _own_root(given: Inputs, own: str) -> Iterator[ChildStep]:
    """Yield the machine's own root for a plain user, directory by directory.

    In a user namespace the host's mounts are locked together: / can't be a layer, because without the mounts on it one
    would see what they hide. Each directory that has none below it can; one that has is shown as it is, read-only.
    """
    yield MountKernelFs("tmpfs", "mnt", ("MS_NOSUID", "MS_NODEV"), "mode=0755")
    yield MakeDirectory("mnt/run")
    for entry in given.top:
        if entry.link:
            yield MakeSymlink(entry.link, f"mnt/{entry.name}")
            continue
        yield MakeDirectory(f"mnt/{entry.name}")
        if entry.mounts_below:
            yield OpenSource(f"/{entry.name}", f"top:{entry.name}")
            yield SetMountFlags(f"top:{entry.name}", ("MOUNT_ATTR_RDONLY", "MOUNT_ATTR_NOSUID", "MOUNT_ATTR_NODEV"))
            yield OpenTarget(f"mnt/{entry.name}", f"at:top:{entry.name}")
            yield PlaceMount(f"top:{entry.name}", f"at:top:{entry.name}", f"/{entry.name}", read_only=True)
            continue
        for part in ("u", "w"):
            yield MakeDirectory(f"{own}/{part}/{entry.name}")
        yield _overlay(given, (f"/{entry.name}",), own, f"/{entry.name}", f"mnt/{entry.name}")


def _host_sources(given: Inputs) -> Iterator[tuple[str, str]]:
    """Yield (slot, path) of what is the host's own, because it can't or shall not be made afresh."""
    spec = given.spec
    if given.userns:
        for name, _, _ in NODES:
            yield f"dev:{name}", f"/dev/{name}"
    if spec.pid == "host":
        yield "proc", "/proc"
    if _hosts_kept(given):
        yield "etc:hosts", _hosts_kept(given)
    if spec.network == "host":
        if given.userns:
            yield "sys", "/sys"
        for name in ("hosts", "resolv.conf"):
            yield f"etc:{name}", f"/etc/{name}"
    if spec.ipc == "host":
        yield "shm", "/dev/shm"


def steps(given: Inputs) -> Iterator[ChildStep]:
    """Yield the change of root and everything mounted from inside it."""
    if given.mapped_by_root:
        # a mount inherited across a user namespace is locked, and pivot_root refuses it: a copy of one's own is not. No path
        # is walked, because root of the container is nobody on the host and may not even look into the store.
        yield OpenSource(".", "root", recursive=False)
        yield OpenTarget(".", "at:root")
        yield PlaceMount("root", "at:root", ".")
        yield EnterPlace("root", ".")
    yield PivotRoot()
    yield from _proc_and_sys(given)
    yield from _dev(given)
    yield from _covers(given)
    yield DetachOldRoot()
    yield GoTo("/")
    held = {slot for slot, _ in _host_sources(given)}
    if not _files_in_upper(given):
        held |= {f"etc:{name}" for name, _, _ in _files(given)}
    for name in ("hostname", "hosts", "resolv.conf"):
        if f"etc:{name}" in held:
            yield OpenTarget(f"/etc/{name}", f"at:{name}", file=True)
            kept = name == "hosts" and _hosts_kept(given) != ""  # many read it, and it lies in memory: --add-host changes it
            yield PlaceMount(f"etc:{name}", f"at:{name}", f"/etc/{name}", read_only=kept)
    numbered = sorted(enumerate(given.spec.mounts), key=lambda entry: entry[1].target.rstrip("/").count("/"))
    for number, mount in numbered:
        yield from _volume(number, mount, given.sources[number])
    yield from _workdir(given)
    if given.spec.read_only:
        yield MakeReadOnly("/", ("MS_RDONLY", "MS_NODEV"))


def _proc_and_sys(given: Inputs) -> Iterator[ChildStep]:
    spec = given.spec
    yield RealDirectory("/proc")
    if spec.pid == "host":
        yield OpenTarget("/proc", "at:proc")
        yield PlaceMount("proc", "at:proc", "/proc")
    else:
        yield MountKernelFs("proc", "/proc", _QUIET)
    yield RealDirectory("/sys")
    if given.userns and spec.network == "host":
        # a fresh sysfs shows the network namespace of its mounter, who must own it
        yield SetMountFlags("sys", ("MOUNT_ATTR_RDONLY", *(flag.replace("MS_", "MOUNT_ATTR_") for flag in _QUIET)))
        yield OpenTarget("/sys", "at:sys")
        yield PlaceMount("sys", "at:sys", "/sys", read_only=True)
        return
    yield MountKernelFs("sysfs", "/sys", ("MS_RDONLY", *_QUIET))
    if cgroup.delegated(given):  # on a hybrid host too: to its init it looks like a cgroup v2 host without controllers
        yield MountKernelFs("cgroup2", "/sys/fs/cgroup", _QUIET)
    elif given.facts.cgroups.pure:
        yield MountKernelFs("cgroup2", "/sys/fs/cgroup", ("MS_RDONLY", *_QUIET))


def _dev(given: Inputs) -> Iterator[ChildStep]:
    yield RealDirectory("/dev")
    yield MountKernelFs("tmpfs", "/dev", ("MS_NOSUID", "MS_STRICTATIME"), "mode=755,size=65536k")
    for name, major, minor in NODES:
        if given.userns:
            # mknod is not for user namespaces: the host's node is mounted on an empty file
            yield MakeFile(f"/dev/{name}", "")
            yield OpenTarget(f"/dev/{name}", f"at:{name}", file=True)
            yield PlaceMount(f"dev:{name}", f"at:{name}", f"/dev/{name}")
        else:
            yield MakeNode(f"/dev/{name}", major, minor)
    for to, name in LINKS:
        yield MakeSymlink(to, f"/dev/{name}")
    for name in ("pts", "shm", "mqueue"):
        yield MakeDirectory(f"/dev/{name}")
    options = "newinstance,ptmxmode=0666,mode=0620" + ("" if given.one_id else ",gid=5")
    yield MountKernelFs("devpts", "/dev/pts", ("MS_NOSUID", "MS_NOEXEC"), options)
    if given.spec.tty:
        from pybox.steps.terminal import OpenTerminal, ShowConsole  # who has no terminal does not pay for it

        yield OpenTerminal(given.account.uid)
        yield MakeFile("/dev/console", "", 0o600)
        yield ShowConsole("/dev/console", "/dev/pts/0")
    if given.spec.ipc == "host":
        yield OpenTarget("/dev/shm", "at:shm")
        yield PlaceMount("shm", "at:shm", "/dev/shm")
    else:
        yield MountKernelFs("tmpfs", "/dev/shm", _QUIET, "mode=1777,size=65536k")
    if given.spec.ipc == "private" or not given.userns:  # only the owner of an IPC namespace may mount its queues
        yield MountKernelFs("mqueue", "/dev/mqueue", _QUIET)


def _covers(given: Inputs) -> Iterator[ChildStep]:
    empty = ""
    for path, directory in given.facts.masked:
        if not directory:
            yield Cover(path, "/dev/null")
        elif not empty:
            empty = path  # one tmpfs serves all: each costs a superblock to make and to reap
            yield MountKernelFs("tmpfs", path, ("MS_RDONLY", *_QUIET), "size=4k,nr_inodes=1,mode=755")
        else:
            yield Cover(path, empty)
    for path in given.facts.read_only:
        yield BindOnItself(path)
        yield MakeReadOnly(path)


def _volume(number: int, mount: Mount, kind: str) -> Iterator[ChildStep]:
    slot = f"at:volume{number}"
    yield OpenTarget(mount.target, slot, file=kind in ("file", "device"), foreign=mount.target not in PROC_OK)
    if mount.source is not None or mount.image:
        yield PlaceMount(f"volume{number}", slot, mount.target, mount.read_only)
        return
    size = "" if mount.size is None else f"size={mount.size},"
    flags = (*(("MS_RDONLY",) if mount.read_only else ()), "MS_NOSUID", "MS_NODEV", *(() if mount.exec else ("MS_NOEXEC",)))
    yield EnterPlace(slot, mount.target)
    yield MountKernelFs("tmpfs", ".", flags, f"{size}mode={mount.mode:o}", shown_at=mount.target)
    yield GoTo("/")  # for openat2, where one stands is the root that is not to be left


def _workdir(given: Inputs) -> Iterator[ChildStep]:
    path = given.spec.workdir or given.image.config.workdir or "/"
    if path == "/":
        yield GoTo("/")
    else:
        yield OpenTarget(path, "at:workdir")
        yield EnterWorkdir("at:workdir", path)
