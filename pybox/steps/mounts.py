"""Steps on mounts: what a container sees.

The order is a safety property. Sources on the host are opened first, while the host is in sight; then the root is changed; then
everything is mounted from inside the new root, where no symlink of an image or a volume can lead to the host any more.
"""

from __future__ import annotations

from pybox.steps.base import ChildStep, flags_text, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pybox.lowering import Table
    from pybox.seen import Seen

_SHOWN = {
    "MS_RDONLY": "ro",
    "MS_NOSUID": "nosuid",
    "MS_NODEV": "nodev",
    "MS_NOEXEC": "noexec",
}


class PrivateMounts(ChildStep):
    """Cut the propagation of mounts. A new mount namespace is a copy whose mounts still tell each other of changes.

    Without this, on a host whose / is shared (systemd makes it so), every mount of the container would appear on the host.
    """

    call: ClassVar[str] = "mount"
    man: ClassVar[str] = "mount_namespaces(7)"

    def describe(self) -> str:
        return "let no mount propagate to the host"

    def calls(self) -> tuple[str, ...]:
        return ('mount(NULL, "/", NULL, MS_REC|MS_PRIVATE, NULL)',)

    def lower(self, table: Table) -> None:
        table.row("PB_MOUNT", b=table.text("/"), x=table.flags(("MS_REC", "MS_PRIVATE")))

    def check(self, seen: Seen) -> bool:
        return seen.private("mnt") and not any(mount.shared for mount in seen.mounts())


class MountOverlay(ChildStep):
    """Join the layers of the image under one writable directory. Reading looks through the stack, writing copies up.

    The image's layers are shared by all containers and never change; what this one writes or deletes is in its upper layer.
    """

    call: ClassVar[str] = "mount"
    man: ClassVar[str] = "mount(2)"
    lower_dirs: tuple[str, ...]  # topmost first, relative to the store
    upper: str
    work: str
    target: str = "mnt"
    userxattr: bool = False  # a plain user may not use trusted.* attributes
    throw_away: bool = True

    def describe(self) -> str:
        return f"stack {len(self.lower_dirs)} layer{'s' * (len(self.lower_dirs) != 1)} and a writable one on {self.target}"

    def options(self) -> str:
        """Return the options of overlayfs: Documentation/filesystems/overlayfs.rst."""
        text = f"lowerdir={':'.join(self.lower_dirs)},upperdir={self.upper},workdir={self.work}"
        # nobody will look at a thrown-away layer after a crash, so syncs need not reach the disk
        return text + (",volatile" if self.throw_away else "") + (",userxattr" if self.userxattr else "")

    def calls(self) -> tuple[str, ...]:
        return (f'mount("overlay", {quote(self.target)}, "overlay", MS_NODEV, {quote(self.options())})',)

    def lower(self, table: Table) -> None:
        options = table.text(self.options(), mine=True)
        table.row(
            "PB_MOUNT",
            a=table.text("overlay"),
            b=table.text(self.target),
            c=table.text("overlay"),
            x=table.flags(("MS_NODEV",)),
            d=options,
        )

    def check(self, seen: Seen) -> bool:
        found = seen.mount(self.target.removeprefix("mnt") or "/")
        return found is not None and found.fstype == "overlay" and any(seen.named(self.upper) in o for o in found.super_options)


class MapLayer(ChildStep):
    """Show a layer through the container's id map: its files belong to the container's root, on disk nothing changes."""

    call: ClassVar[str] = "mount_setattr"
    man: ClassVar[str] = "mount_setattr(2)"
    layer: str
    target: str
    slot: str = "userns"

    def describe(self) -> str:
        return f"show the layer {self.layer} through the id map"

    def calls(self) -> tuple[str, ...]:
        return (
            f"open_tree(AT_FDCWD, {quote(self.layer)}, OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC)",
            'mount_setattr(<tree>, "", AT_EMPTY_PATH, '
            f"{{attr_set=MOUNT_ATTR_IDMAP, attr_clr=0, propagation=0, userns_fd=<{self.slot}>}}, 32)",
            f'move_mount(<tree>, "", AT_FDCWD, {quote(self.target)}, MOVE_MOUNT_F_EMPTY_PATH)',
        )

    def lower(self, table: Table) -> None:
        table.row("PB_MAP_LAYER", a=table.text(self.layer), b=table.text(self.target), fd=table.slot(self.slot))

    def check(self, seen: Seen) -> bool:
        return seen.private("user")


class OpenSource(ChildStep):
    """Take hold of a file or directory of the host as a detached mount, while the host is still in sight."""

    call: ClassVar[str] = "open_tree"
    man: ClassVar[str] = "mount(2)"
    path: str
    slot: str
    recursive: bool = True
    mine: bool = False  # the path contains the container's id

    def describe(self) -> str:
        return f"take hold of the host's {self.path}"

    def _flags(self) -> tuple[str, ...]:
        return ("OPEN_TREE_CLONE", "OPEN_TREE_CLOEXEC", *(("AT_RECURSIVE",) if self.recursive else ()))

    def calls(self) -> tuple[str, ...]:
        return (f"open_tree(AT_FDCWD, {quote(self.path)}, {flags_text(self._flags())})",)

    def lower(self, table: Table) -> None:
        table.row("PB_OPEN_TREE", a=table.text(self.path, self.mine), x=table.flags(self._flags()), out=table.slot(self.slot))

    def check(self, seen: Seen) -> bool:
        return bool(seen.file("status"))  # PlaceMount is where it shows


class SetMountFlags(ChildStep):
    """Restrict a detached mount before anybody can use it: read-only, and without set-user-ID programs or devices."""

    call: ClassVar[str] = "mount_setattr"
    man: ClassVar[str] = "mount_setattr(2)"
    slot: str
    flags: tuple[str, ...]

    def describe(self) -> str:
        shown = ", ".join(flag.removeprefix("MOUNT_ATTR_").lower() for flag in self.flags)
        return f"make it {shown}"

    def calls(self) -> tuple[str, ...]:
        return (
            f'mount_setattr(<{self.slot}>, "", AT_EMPTY_PATH|AT_RECURSIVE, '
            f"{{attr_set={flags_text(self.flags)}, attr_clr=0, propagation=0, userns_fd=0}}, 32)",
        )

    def lower(self, table: Table) -> None:
        table.row("PB_MOUNT_SETATTR", fd=table.slot(self.slot), x=table.flags(self.flags), z=table.flags(("AT_RECURSIVE",)))

    def check(self, seen: Seen) -> bool:
        return bool(seen.file("status"))  # PlaceMount is where it shows


class PlaceMount(ChildStep):
    """Put the detached mount on the opened place: by fd to fd, so no name is looked up a second time and can have changed."""

    call: ClassVar[str] = "move_mount"
    man: ClassVar[str] = "mount(2)"
    source: str  # slot
    onto: str  # slot
    path: str
    read_only: bool = False

    def describe(self) -> str:
        return f"put it on {self.path}"

    def calls(self) -> tuple[str, ...]:
        return (f'move_mount(<{self.source}>, "", <{self.onto}>, "", MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH)',)

    def lower(self, table: Table) -> None:
        table.row("PB_MOVE_MOUNT", fd=table.slot(self.source), x=table.slot(self.onto))

    def check(self, seen: Seen) -> bool:
        # the path may have led through a symlink of the image, so any mount of that last name will do
        name = self.path.strip("./").rsplit("/", 1)[-1]
        found = [mount for mount in seen.mounts() if mount.target.rsplit("/", 1)[-1] == name]
        return bool(found) and (not self.read_only or "ro" in found[-1].options)


class PivotRoot(ChildStep):
    """Make the image the root of this mount namespace. Not chroot: there the host's tree stays around and can be walked to.

    Both arguments are ".": the old root ends up stacked on the new one and is detached a few steps later.
    """

    call: ClassVar[str] = "pivot_root"
    man: ClassVar[str] = "pivot_root(2)"

    def describe(self) -> str:
        return "make it the root"

    def calls(self) -> tuple[str, ...]:
        return ('pivot_root(".", ".")',)

    def lower(self, table: Table) -> None:
        dot = table.text(".")
        table.row("PB_PIVOT_ROOT", a=dot, b=dot)

    def check(self, seen: Seen) -> bool:
        root = seen.mount("/")
        return root is not None and root.fstype in ("overlay", "tmpfs")


class DetachOldRoot(ChildStep):
    """Let go of the host's tree. From here on it is not hidden but gone: no path leads to it."""

    call: ClassVar[str] = "umount2"
    man: ClassVar[str] = "umount(2)"

    def describe(self) -> str:
        return "let go of the host's tree"

    def calls(self) -> tuple[str, ...]:
        return ('umount2(".", MNT_DETACH)',)

    def lower(self, table: Table) -> None:
        table.row("PB_UMOUNT", a=table.text("."), x=table.flags(("MNT_DETACH",)))

    def check(self, seen: Seen) -> bool:
        return [mount.target for mount in seen.mounts()].count("/") == 1


class MountKernelFs(ChildStep):
    """Mount a file system that the kernel makes up: proc, sysfs, tmpfs, devpts, mqueue, cgroup2. Each shows its own namespace.

    /proc shows the PID namespace of whoever mounted it, so without a fresh one ``ps`` would list the host's processes.
    """

    call: ClassVar[str] = "mount"
    man: ClassVar[str] = "filesystems(5)"
    fstype: str
    target: str
    flags: tuple[str, ...] = ()
    options: str | None = None
    shown_at: str = ""  # the absolute path, when target is "."

    def describe(self) -> str:
        return f"mount {self.fstype} on {self.shown_at or self.target}"

    def calls(self) -> tuple[str, ...]:
        words = (quote(self.fstype), quote(self.target), quote(self.fstype), flags_text(self.flags), quote(self.options))
        return (f"mount({', '.join(words)})",)

    def lower(self, table: Table) -> None:
        name = table.text(self.fstype)
        table.row("PB_MOUNT", a=name, b=table.text(self.target), c=name, x=table.flags(self.flags), d=table.text(self.options))

    def check(self, seen: Seen) -> bool:
        path = self.shown_at or self.target
        if not path.startswith("/"):
            return True  # scaffolding in the host's tree, gone with it
        found = seen.mount(path)
        wanted = {_SHOWN[flag] for flag in self.flags if flag in _SHOWN}
        return found is not None and found.fstype == self.fstype and wanted <= found.options | found.super_options


class Cover(ChildStep):
    """Cover a file of the kernel's that tells or changes too much: a file by our own /dev/null, a directory by an empty one.

    The covers are made in this very launch, from the kernel's own device number: an image can't bring a false /dev/null
    (CVE-2025-31133).
    """

    call: ClassVar[str] = "mount"
    man: ClassVar[str] = "mount(2)"
    path: str
    by: str

    def describe(self) -> str:
        return f"cover {self.path} by {self.by}"

    def calls(self) -> tuple[str, ...]:
        return (f"mount({quote(self.by)}, {quote(self.path)}, NULL, MS_BIND, NULL)",)

    def lower(self, table: Table) -> None:
        table.row(
            "PB_MOUNT",
            a=table.text(self.by),
            b=table.text(self.path),
            x=table.flags(("MS_BIND",)),
            tolerate=table.number("PB_OK_MISSING"),
        )

    def check(self, seen: Seen) -> bool:
        found = seen.mount(self.path)
        # our own /dev is a tmpfs; in a user namespace its null is the host's, on devtmpfs where the host has one
        return found is not None and found.fstype in ("tmpfs", "devtmpfs")


class MakeReadOnly(ChildStep):
    """Make a part of the tree read-only by mounting it on itself, once more, with that flag."""

    call: ClassVar[str] = "mount"
    man: ClassVar[str] = "mount(2)"
    path: str
    flags: tuple[str, ...] = ("MS_RDONLY", "MS_NOSUID", "MS_NODEV", "MS_NOEXEC")

    def describe(self) -> str:
        return f"make {self.path} read-only"

    def calls(self) -> tuple[str, ...]:
        flags = (*self.flags, "MS_REMOUNT", "MS_BIND")
        return (f"mount(NULL, {quote(self.path)}, NULL, {flags_text(flags)}, NULL)",)

    def lower(self, table: Table) -> None:
        table.row("PB_MOUNT", b=table.text(self.path), x=table.flags((*self.flags, "MS_REMOUNT", "MS_BIND")))

    def check(self, seen: Seen) -> bool:
        found = seen.mount(self.path)
        return found is not None and "ro" in found.options


class BindOnItself(ChildStep):
    """Mount a directory on itself, to have a mount of its own there whose flags can be changed."""

    call: ClassVar[str] = "mount"
    man: ClassVar[str] = "mount(2)"
    path: str

    def describe(self) -> str:
        return f"mount {self.path} on itself"

    def calls(self) -> tuple[str, ...]:
        return (f"mount({quote(self.path)}, {quote(self.path)}, NULL, MS_BIND|MS_REC, NULL)",)

    def lower(self, table: Table) -> None:
        path = table.text(self.path)
        table.row("PB_MOUNT", a=path, b=path, x=table.flags(("MS_BIND", "MS_REC")))

    def check(self, seen: Seen) -> bool:
        return not self.path.startswith("/") or seen.mount(self.path) is not None
