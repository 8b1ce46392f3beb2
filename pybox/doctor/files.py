"""Doctor on files: the storage, an overlay on it, the images in it, and what killed pyboxes left behind."""

from __future__ import annotations

import errno as errnos
import os
import time
from tempfile import mkdtemp

from pybox import kept, listing, state
from pybox.doctor.item import Item
from pybox.doctor.kernel import OUTSIDE
from pybox.doctor.namespaces import explain
from pybox.doctor.session import Host, Settings
from pybox.doctor.trial import Outcome, attempt, become, enter_user_namespace, mount, unshare
from pybox.errors import ImageError
from pybox.host import read
from pybox.image import store
from pybox.probes import file_system
from pybox.record import Record
from pybox.steps.mounts import MountOverlay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

_NO_UPPER = ("overlay", "nfs", "nfs4", "vfat", "fuse", "9p", "hostfs")
_GOOD_STORE = "export PYBOX_STORE=/var/tmp/pybox-store   (or another directory on ext4, xfs, btrfs, or tmpfs from Linux 6.6 on)"
_LITTLE = 256 << 20  # bytes: less is not enough to import a Debian image
_FEW = 10_000  # files: the same


class Storage(Record):
    """What the store's file system is like."""

    path: str
    state: str
    uid: int
    problem: str = ""
    mapped: bool = False  # the caller is root of a user namespace only
    elsewhere: str = "/var/tmp"  # a directory in which this user can make others
    fstype: str = ""
    free: int = 0  # bytes, for this user
    files: int | None = None  # that can still be made, None where the file system does not count them
    attributes: tuple[tuple[str, str], ...] = ()  # (namespace, problem) of extended attributes


def storage(host: Host) -> Item:
    """Make a directory in the store, write extended attributes, ask how much is free."""
    dirs, uid = host.dirs, host.facts.uid
    seen = Storage(
        dirs.store,
        dirs.state,
        uid,
        problem=host.store_problem or host.state_problem,
        mapped=host.settings.mapped,
        elsewhere=_open_place(),
    )
    if host.scratch:
        room = os.statvfs(host.scratch)
        files = room.f_favail if room.f_files else None
        wanted = ("trusted", "user") if uid == 0 else ("user",)
        attributes = tuple((name, _attribute(host.scratch, f"{name}.pybox")) for name in wanted)
        seen = seen.replace(
            fstype=file_system(host.scratch), free=room.f_bavail * room.f_frsize, files=files, attributes=attributes
        )
    return judge_storage(seen)


def _open_place() -> str:
    """Return a directory in which the caller can make directories: where TMPDIR says, else one that outlives a reboot."""
    candidates = (os.environ.get("TMPDIR") or "/var/tmp", "/var/tmp", "/tmp", "/dev/shm")
    for parent in candidates:
        try:
            os.rmdir(mkdtemp(prefix="pybox-doctor.", dir=parent))
            return parent
        except OSError:
            continue
    return candidates[0]


def _attribute(path: str, name: str) -> str:
    try:
        os.setxattr(path, name, b"1")
        os.removexattr(path, name)
    except OSError as error:
        return str(error.strerror)
    return ""


def judge_storage(seen: Storage) -> Item:
    """Judge the storage."""
    base = Item(
        "storage",
        "storage",
        "ok",
        f"made a directory in {seen.path} and a record in {seen.state}",
        "",
        details=(("store", seen.path), ("state", seen.state)),
    )
    place = f"{seen.elsewhere}/pybox-{seen.uid}"
    elsewhere = f"export PYBOX_STORE={place}/store PYBOX_STATE={place}/state"
    if seen.problem:
        return base.replace(level="fail", happened=seen.problem, lost="every run", fix=elsewhere, blocks=("run", "rootless"))
    count = "" if seen.files is None else f", {seen.files} files"
    refused = [(name, problem) for name, problem in seen.attributes if problem]
    marks = ", ".join(f"{name}.* xattrs ✓" for name, problem in seen.attributes if not problem)
    happened = f"{seen.path} on {seen.fstype}, {seen.free / (1 << 30):.1f} GiB{count} free" + (f", {marks}" if marks else "")
    if refused:
        words = ", ".join(f"{name}.* xattrs: {problem}" for name, problem in refused)
        lost = "containers can't replace or rename directories of their image (overlayfs marks them with these attributes)"
        return base.replace(
            level="warn",
            happened=f"{happened}, {words}",
            lost=lost,
            fix=OUTSIDE if seen.mapped else f"{elsewhere}   (on ext4, xfs, btrfs, or tmpfs of Linux 6.6)",
        )
    if seen.free < _LITTLE or (seen.files is not None and seen.files < _FEW):
        return base.replace(
            level="warn",
            happened=happened,
            lost="room for images and for what containers write",
            fix=f"{elsewhere}   (on a bigger disk)",
        )
    return base.replace(happened=happened)


class Stacked(Record):
    """What came of one overlay: whose, where its upper layer was, and what it showed."""

    who: str
    place: str  # "in memory", or "on" a type of file system
    outcome: Outcome
    own: bool = True  # the caller's; else root has tried it as a plain user
    default: bool = True  # this is where the caller's runs have their upper layer by default

    @property
    def right(self) -> bool:
        """Whether it showed what it should: [names, a file changed through it, the same file of the lower layer]."""
        return self.outcome.value == [["changed", "old"], "image container", "image"]

    @property
    def mounted(self) -> bool:
        """Whether there was one to use at all."""
        return self.outcome.ok or self.outcome.call.startswith("mnt/")

    def words(self) -> str:
        """Return it in words."""
        shown = "✓" if self.right else self.outcome.words() if self.outcome.call else f"it shows {self.outcome.value}"
        return f"{self.who}, upper {self.place}: {shown}"


def overlay(host: Host) -> Item:
    """Mount overlays over the storage and change them: upper in memory and on disk, and for root also as a plain user."""
    if not host.scratch:
        return not_tried("overlay", "overlay")
    fstype = file_system(host.scratch)
    kinds = [("root", False, True)] if host.facts.root else []
    if host.plain:
        kinds.append((f"uid {host.plain[0]} with userxattr", True, not host.facts.root))
    tried: list[Stacked] = []
    for who, plain, own in kinds:
        # as Inputs.upper_in_memory decides it
        places = ("in memory", f"on {fstype}") if host.facts.tmpfs_user_xattr or not plain else (f"on {fstype}",)
        for place in places:
            path = f"{host.scratch}/overlay{len(tried)}"
            os.mkdir(path, 0o700)
            if host.plain and plain and host.facts.root:
                os.chown(path, *host.plain)
            tried.append(Stacked(who, place, _attempt(host, path, plain, place == "in memory"), own, place == places[0]))
    return judge_overlay(tuple(tried), fstype, host.settings)


def _attempt(host: Host, path: str, plain: bool, memory: bool) -> Outcome:
    return attempt(lambda: _stack(host, path, plain, memory))


def not_tried(identity: str, title: str) -> Item:
    """Return the item for what needs a place in the storage where there is none."""
    return Item(identity, title, "n/a", "nothing", "not tried: there is no storage to try it on, see `pybox doctor storage`")


def _stack(host: Host, path: str, plain: bool, memory: bool) -> Json:
    os.chdir(path)  # first: a plain user may not be allowed to walk there
    if host.plain and plain and host.facts.root:
        become(*host.plain)
    if plain:
        enter_user_namespace()
    unshare("CLONE_NEWNS")
    for name in ("lower", "lower/old", "scratch", "mnt"):
        os.mkdir(name)
    _append("lower/changed", "image")
    _append("lower/deleted", "image")
    if memory:
        mount("tmpfs", "scratch", "tmpfs")
    os.mkdir("scratch/u")
    os.mkdir("scratch/w")
    step = MountOverlay(("lower",), "scratch/u", "scratch/w", userxattr=plain, throw_away=not memory)
    mount("overlay", "mnt", "overlay", ("MS_NODEV",), step.options())
    _append("mnt/changed", " container")
    os.unlink("mnt/deleted")
    os.rmdir("mnt/old")
    os.mkdir("mnt/old")  # opaque: marked with an extended attribute
    names: list[Json] = [*sorted(os.listdir("mnt"))]
    return [names, read("mnt/changed"), read("lower/changed")]


def _append(path: str, text: str) -> None:
    with open(path, "a", encoding="ascii") as file:
        file.write(text)


def judge_overlay(tried: tuple[Stacked, ...], fstype: str, settings: Settings) -> Item:
    """Judge the overlays; the storage is on ``fstype``."""
    words = "; ".join(one.words() for one in tried)
    base = Item("overlay", "overlay", "ok", "mounted them, changed, deleted and replaced files of the lower layer", words)
    failed = next((one for one in tried if not one.right), None)
    if failed is None:
        return base
    why, fix = _overlay_cause(failed, fstype, settings)
    fatal = failed.own and failed.default and not failed.mounted
    if fatal:
        lost = "every run: a container's root is an overlay"
    elif failed.mounted:
        lost = "containers can't do with their files what the line above names"
    elif failed.own:
        lost = "runs without --rm, and --upper disk: their writable layer is in the storage"
    else:
        lost = "runs of plain users, where their storage is on the same file system"
    return base.replace(
        level="fail" if fatal else "warn",
        happened=words + (f": {why}" if why else ""),
        lost=lost,
        fix=fix,
        blocks=("run", "rootless") if fatal else (),
    )


def _overlay_cause(failed: Stacked, fstype: str, settings: Settings) -> tuple[str, str]:
    outcome = failed.outcome
    if outcome.errno == errnos.ENODEV:
        return "the kernel has no overlayfs", "sudo modprobe overlay"
    if failed.mounted and settings.mapped:
        return "overlayfs needs trusted.* attributes, which are not for the root of a user namespace", OUTSIDE
    if failed.mounted:
        return f"overlayfs needs extended attributes, and {fstype} has none for this user", _GOOD_STORE
    if outcome.errno == errnos.EINVAL and fstype in _NO_UPPER and failed.place != "in memory":
        return f"an upper layer can't be on {fstype}", _GOOD_STORE
    if outcome.errno == errnos.EPERM and outcome.call.startswith("mount(overlay"):
        return "plain users can mount one from Linux 5.11 on", "boot Linux 5.14 or later"
    if outcome.call.startswith(("unshare(CLONE_NEWUSER)", "/proc/self/")):
        return explain(outcome, settings)
    return "", "sudo dmesg | tail   (overlayfs says there what it refuses)"


class Shelf(Record):
    """What the image store holds."""

    count: int
    size: int  # bytes
    newest: str = ""
    problem: str = ""


def images(host: Host) -> Item:
    """List the images."""
    if host.store_problem:
        return not_tried("images", "images")
    try:
        found = store.images(host.dirs)
    except (ImageError, OSError) as error:
        return judge_images(Shelf(0, 0, problem=str(error)))
    newest = next((name for image in found for name in image.names), "")
    return judge_images(Shelf(len(found), sum(image.size for image in found), newest))


def judge_images(shelf: Shelf) -> Item:
    """Judge the store's contents: an empty one is no fault, but has a next command."""
    base = Item("images", "images", "ok", "listed the store", "")
    if shelf.problem:
        return base.replace(
            level="warn",
            happened=shelf.problem,
            lost="runs of the damaged image",
            fix="pybox images   (then pybox rmi, and import it again)",
        )
    if not shelf.count:
        return base.replace(happened="none yet, but `host` is always there; next: pybox run host id   or: make images")
    plural = "s" * (shelf.count != 1)
    return base.replace(
        happened=f"{shelf.count} image{plural}, {shelf.size / 1e6:.0f} MB; next: pybox run {shelf.newest or 'host'} id"
    )


class Leftovers(Record):
    """What is there without an owner; paths."""

    records: tuple[str, ...] = ()
    uppers: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


def leftovers(host: Host) -> Item:
    """Look for records of dead pyboxes, writable layers without a record, and forgotten control groups."""
    dirs = host.dirs
    dead = tuple(entry.path for entry in listing.entries(dirs) if entry.status == "dead")
    known = {name for name in (*_listdir(dirs.state), *kept.identities(dirs)) if state.is_id(name)}
    uppers = tuple(f"{dirs.uppers}/{name}" for name in _listdir(dirs.uppers) if state.is_id(name) and name not in known)
    return judge_leftovers(Leftovers(dead, uppers, tuple(_stale_groups(host, known))))


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _stale_groups(host: Host, known: set[str]) -> list[str]:
    groups = host.facts.cgroups
    found = []
    for parent in (groups.unified, *(path for _, path in groups.v1)):
        for name in _listdir(parent) if parent else ():
            path = f"{parent}/{name}"
            if not (name.startswith("pybox-") and state.is_id(name[6:])) or name[6:] in known:
                continue
            try:
                # another store's run may just be beginning; an empty group that is a minute old is nobody's
                if not read(f"{path}/cgroup.procs").strip() and time.time() - os.stat(path).st_mtime > 60:
                    found.append(path)
            except OSError:
                continue
    return found


def judge_leftovers(seen: Leftovers) -> Item:
    """Judge what is left."""
    base = Item("leftovers", "leftovers", "ok", "compared records, writable layers and control groups", "none")
    counts = (
        (seen.records, "record", "of a killed pybox"),
        (seen.uppers, "writable layer", "without a record"),
        (seen.groups, "control group", "without a record"),
    )
    words = [f"{len(paths)} {what}{'s' * (len(paths) != 1)} {whose}" for paths, what, whose in counts if paths]
    if not words:
        return base
    everything = (*seen.records, *seen.uppers, *seen.groups)
    fix = "pybox gc" if seen.records or seen.uppers else f"rmdir {' '.join(seen.groups)}   (unless another PYBOX_STATE has them)"
    return base.replace(
        level="warn",
        happened="; ".join(words),
        lost="a little room: nothing that runs is touched by it",
        fix=fix,
        details=tuple((path, "left") for path in everything),
    )
