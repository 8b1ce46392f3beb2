"""Inputs: all that a plan is made from. The rooms of this package are pure functions of it, each with the door steps(given)."""

from __future__ import annotations

from pybox.dirs import Dirs
from pybox.host import Facts
from pybox.image.model import Image
from pybox.record import Record
from pybox.spec import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.network.networks import Network


class Account(Record):
    """Whom the command runs as, resolved from the image's /etc/passwd and /etc/group."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()  # supplementary
    home: str = "/"


class TopEntry(Record):
    """One entry of the machine's own root directory: a symlink, or a directory, perhaps with other mounts below it."""

    name: str
    link: str = ""  # where the symlink leads
    mounts_below: bool = False


class Inputs(Record):
    """Spec, facts and what was read from disk for it. The same inputs give the same plan."""

    spec: Spec
    facts: Facts
    image: Image
    dirs: Dirs
    account: Account = Account()
    sources: tuple[str, ...] = ()  # of spec.mounts, in order: "directory", "file", "device", "image" or "tmpfs"
    stacks: tuple[tuple[str, ...], ...] = ()  # of spec.mounts, in order: an image's layers; () when none is an image
    filter: bytes = b""  # compiled seccomp program, b"" for none
    etc_mode: int | None = None  # of the image's /etc, when it is a plain directory that belongs to the container's root
    top: tuple[TopEntry, ...] = ()  # of the image host, for a plain user
    keep_upper: bool = False  # the writable layer is looked at after the run
    networks: tuple[Network, ...] = ()  # that it is on
    resolvers: str = ""  # its resolv.conf, when it is on a network
    forwards6: bool = False  # this host forwards IPv6: asked only for who is on a network
    no_quota: str = ""  # why a writable layer on disk has no project quota; asked only where it is to be limited
    no_loop: str = ""  # or else why it can't be a file system of its own, in a file
    disk: bool = False  # it is one
    managed: bool = False  # it is looked after: stopped, counted and frozen by its control groups

    @property
    def userns(self) -> bool:
        """Whether the container has a user namespace of its own."""
        return self.spec.userns or not self.facts.root

    @property
    def one_id(self) -> bool:
        """Whether only the caller's own id exists in the container: then there are no groups to be set."""
        return not self.facts.root and (self.spec.keep_id or not self.facts.subgid)

    @property
    def upper_in_memory(self) -> bool:
        """Whether the writable layer is a tmpfs inside the container's mount namespace: it dies with it, and nothing is on disk."""
        if self.mapped_by_root or (not self.facts.root and not self.facts.tmpfs_user_xattr):
            return False
        return not self.keep_upper and self.spec.upper != "disk"

    @property
    def mapped_by_root(self) -> bool:
        """Whether it is root who gives the container a user namespace: layers are then shown through an id map."""
        return self.spec.userns and self.facts.root
