"""Where pybox keeps things: the store (images, writable layers) on disk, the state of containers under /run.

Root has the FHS places, a plain user the XDG ones. ``PYBOX_STORE`` and ``PYBOX_STATE`` override both, for tests and for
machines whose big disk is elsewhere.
"""

from __future__ import annotations

import posix as os

from pybox.errors import PyboxError
from pybox.paths import absolute, environment, make_dirs
from pybox.record import Record


class Dirs(Record):
    """The two directories, absolute. ``store`` outlives a reboot, ``state`` need not."""

    store: str
    state: str

    @property
    def layers(self) -> str:
        """Unpacked layers, one directory each, named by digest."""
        return f"{self.store}/layers"

    @property
    def images(self) -> str:
        """One JSON file per image, and the names that point at them."""
        return f"{self.store}/images"

    @property
    def uppers(self) -> str:
        """Writable layers of containers, one directory each, named by container id."""
        return f"{self.store}/uppers"

    def disk(self, identity: str) -> str:
        """Return the file that is a container's writable layer, where that is a file system of its own (steps/disk.py)."""
        return f"{self.uppers}/{identity}/disk"


def current() -> Dirs:
    """Return the directories for the calling user; creates nothing."""
    env, uid = environment(), os.geteuid()
    if uid == 0:
        store = "/var/lib/pybox"
    else:
        home = env.get("HOME") or f"/tmp/pybox-home-{uid}"
        store = f"{env.get('XDG_DATA_HOME') or home + '/.local/share'}/pybox"
    state = env.get("PYBOX_STATE") or _state(uid, env.get("XDG_RUNTIME_DIR"))
    return Dirs(absolute(env.get("PYBOX_STORE") or store), absolute(state))


def _state(uid: int, runtime: str | None) -> str:
    """Return the state directory: below /run, or in /dev/shm on the rare machine whose /run is a disk.

    A few files come and go with each container: on a disk they are half the price of a launch.
    """
    usual = "/run/pybox" if uid == 0 else f"{runtime}/pybox" if runtime else f"/tmp/pybox-run-{uid}"
    shared = "/dev/shm/pybox" if uid == 0 else f"/dev/shm/pybox-{uid}"
    disk = os.stat("/").st_dev
    if _device(usual.rpartition("/")[0], disk) != disk or _device("/dev/shm", disk) == disk:
        return usual
    try:
        # everybody may make names there: what a stranger made first is not used
        return shared if os.stat(shared).st_uid == uid else usual
    except OSError:
        return shared


def _device(path: str, default: int) -> int:
    try:
        return os.stat(path).st_dev
    except OSError:
        return default


def ensure(path: str, mode: int = 0o700) -> str:
    """Create a directory (and its parents) unless it is there; refuse one that another user owns. Returns the path.

    The owner check matters for the /tmp fallback: a stranger may have made the name first.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        make_dirs(path, mode)
        status = os.stat(path)
    if status.st_uid != os.geteuid():
        raise PyboxError(f"{path}: owned by uid {status.st_uid}", "set PYBOX_STORE and PYBOX_STATE to directories of your own")
    return path
