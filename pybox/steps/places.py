"""Steps on files and directories: the places to mount on, the working directory, and the small files of our own.

A name is looked up inside the root, once, and from then on there is an fd: what a hostile image or a volume shared with a running
container does to the name meanwhile makes no difference.
"""

from __future__ import annotations

import posix as os

from pybox.host import read
from pybox.paths import is_dir, is_link, is_there, same_file
from pybox.steps.base import ChildStep, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pybox.lowering import Table
    from pybox.seen import Seen


class GoTo(ChildStep):
    """Change the working directory, so that the names that follow are short and hold no character that overlay would misread."""

    call: ClassVar[str] = "chdir"
    man: ClassVar[str] = "chdir(2)"
    path: str

    def describe(self) -> str:
        return f"go to {self.path}"

    def calls(self) -> tuple[str, ...]:
        return (f"chdir({quote(self.path)})",)

    def lower(self, table: Table) -> None:
        table.row("PB_CHDIR", a=table.text(self.path))

    def check(self, seen: Seen) -> bool:
        return bool(seen.file("status"))  # on the way only; EnterWorkdir is the one that lasts


class OpenTarget(ChildStep):
    """Open the place to mount on inside the root, making it if it is missing. Symlinks are followed within the root only."""

    call: ClassVar[str] = "openat2"
    man: ClassVar[str] = "openat2(2)"
    path: str
    slot: str
    file: bool = False
    foreign: bool = False  # a user's, so not for the kernel's own file systems, wherever a symlink leads (CVE-2023-27561)

    def describe(self) -> str:
        return f"open {self.path} inside the root"

    def calls(self) -> tuple[str, ...]:
        return (
            f"openat2(AT_FDCWD, {quote(self.path)}, {{flags=O_RDONLY|O_PATH|O_CLOEXEC, "
            "resolve=RESOLVE_NO_MAGICLINKS|RESOLVE_IN_ROOT}, 24)",
        )

    def lower(self, table: Table) -> None:
        table.row("PB_TARGET", a=table.text(self.path), x=2 if self.file else 1, y=self.foreign, out=table.slot(self.slot))

    def check(self, seen: Seen) -> bool:
        return not self.path.startswith("/") or is_there(seen.inside(self.path))


class EnterPlace(ChildStep):
    """Go to the opened place, to mount on "." there: again no name to look up."""

    call: ClassVar[str] = "fchdir"
    man: ClassVar[str] = "chdir(2)"
    slot: str
    path: str

    def describe(self) -> str:
        return f"go to {self.path}"

    def calls(self) -> tuple[str, ...]:
        return f"fchdir(<{self.slot}>)", "getcwd(..., 4096)"

    def lower(self, table: Table) -> None:
        table.row("PB_FCHDIR", fd=table.slot(self.slot))

    def check(self, seen: Seen) -> bool:
        return not self.path.startswith("/") or is_dir(seen.inside(self.path))


class EnterWorkdir(EnterPlace):
    """Go to the working directory, and ask the kernel whether it lies inside the root (CVE-2024-21626)."""

    def check(self, seen: Seen) -> bool:
        path = seen.inside(self.path)
        return is_link(path) or same_file(f"/proc/{seen.pid}/cwd", path)


class RealDirectory(ChildStep):
    """Insist that a mount point is a directory and not a symlink: what is written to /proc must reach proc (CVE-2019-19921)."""

    call: ClassVar[str] = "openat2"
    man: ClassVar[str] = "openat2(2)"
    path: str

    def describe(self) -> str:
        return f"insist that {self.path} is a real directory"

    def calls(self) -> tuple[str, ...]:
        return (
            f"openat2(AT_FDCWD, {quote(self.path)}, "
            "{flags=O_RDONLY|O_DIRECTORY|O_PATH|O_CLOEXEC, resolve=RESOLVE_NO_SYMLINKS}, 24)",
        )

    def lower(self, table: Table) -> None:
        table.row("PB_REAL_DIR", a=table.text(self.path))

    def check(self, seen: Seen) -> bool:
        path = seen.inside(self.path)
        return is_dir(path) and not is_link(path)


class MakeDirectory(ChildStep):
    """Make a directory: a mount point in a file system that we have just mounted ourselves."""

    call: ClassVar[str] = "mkdir"
    man: ClassVar[str] = "mkdir(2)"
    path: str
    mode: int = 0o755

    def describe(self) -> str:
        return f"make the directory {self.path}"

    def calls(self) -> tuple[str, ...]:
        return (f"mkdir({quote(self.path)}, 0{self.mode:o})",)

    def lower(self, table: Table) -> None:
        table.row("PB_MKDIR", a=table.text(self.path, mine=True), x=self.mode, tolerate=table.number("PB_OK_EXIST"))

    def check(self, seen: Seen) -> bool:
        return not self.path.startswith("/dev/") or is_dir(seen.inside(self.path))


class MakeFile(ChildStep):
    """Write a small file into a file system of our own, to be bound over one of the image's: the image stays as it is."""

    call: ClassVar[str] = "openat"
    man: ClassVar[str] = "open(2)"
    path: str
    text: str
    mode: int = 0o644
    mine: bool = False  # the text contains the container's id

    def describe(self) -> str:
        return f"write {self.path}"

    def calls(self) -> tuple[str, ...]:
        opened = f"openat(AT_FDCWD, {quote(self.path)}, O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC, 0{self.mode:o})"
        return (opened, f"write(<fd>, {quote(self.text)}, {len(self.text.encode())})") if self.text else (opened,)

    def lower(self, table: Table) -> None:
        table.row("PB_CREATE", a=table.text(self.path), b=table.text(self.text, self.mine), x=self.mode)

    def check(self, seen: Seen) -> bool:
        path = "/etc/" + self.path.rsplit("/", 1)[-1] if self.text else self.path  # written aside, or an empty mount point
        place = seen.inside(path)
        if not self.text or is_link(place):  # a link of the image's would lead us astray
            return is_there(place)
        return read(place) == seen.named(self.text)


class MakeNode(ChildStep):
    """Make a device node: the few that every program may expect, and no other device of the machine."""

    call: ClassVar[str] = "mknod"
    man: ClassVar[str] = "mknod(2)"
    path: str
    major: int
    minor: int

    def describe(self) -> str:
        return f"make the device {self.path}"

    def calls(self) -> tuple[str, ...]:
        return (
            f"mknodat(AT_FDCWD, {quote(self.path)}, S_IFCHR|0666, makedev({self.major:#x}, {self.minor:#x}))".replace(
                "0x0)", "0)"
            ),
        )

    def lower(self, table: Table) -> None:
        table.row("PB_MKNOD", a=table.text(self.path), x=0o020666, y=os.makedev(self.major, self.minor))

    def check(self, seen: Seen) -> bool:
        return os.lstat(seen.inside(self.path)).st_rdev == os.makedev(self.major, self.minor)


class MakeSymlink(ChildStep):
    """Make one of the customary symlinks of /dev."""

    call: ClassVar[str] = "symlink"
    man: ClassVar[str] = "symlink(2)"
    to: str
    path: str

    def describe(self) -> str:
        return f"make {self.path} lead to {self.to}"

    def calls(self) -> tuple[str, ...]:
        return (f"symlink({quote(self.to)}, {quote(self.path)})",)

    def lower(self, table: Table) -> None:
        table.row("PB_SYMLINK", a=table.text(self.to), b=table.text(self.path))

    def check(self, seen: Seen) -> bool:
        if self.path.startswith("scratch/"):
            return True  # scaffolding in the host's tree, gone with it
        return os.readlink(seen.inside(f"/{self.path.removeprefix('mnt').lstrip('/')}")) == self.to
