"""Where pybox keeps things: the store (images, writable layers) on disk, the state of containers under /run.

Root has the FHS places, a plain user the XDG ones. ``PYBOX_STORE`` and ``PYBOX_STATE`` override both, for tests and for
machines whose big disk is elsewhere.
"""

from __future__ import annotations

import os

from pybox.errors import PyboxError
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


def current() -> Dirs:
    """Return the directories for the calling user; creates nothing."""
    env, uid = os.environ, os.geteuid()
    if uid == 0:
        store, state = "/var/lib/pybox", "/run/pybox"
    else:
        home = env.get("HOME") or f"/tmp/pybox-home-{uid}"
        store = f"{env.get('XDG_DATA_HOME') or home + '/.local/share'}/pybox"
        runtime = env.get("XDG_RUNTIME_DIR")
        state = f"{runtime}/pybox" if runtime else f"/tmp/pybox-run-{uid}"
    return Dirs(os.path.abspath(env.get("PYBOX_STORE") or store), os.path.abspath(env.get("PYBOX_STATE") or state))


def ensure(path: str, mode: int = 0o700) -> str:
    """Create a directory (and its parents) unless it is there; refuse one that another user owns. Returns the path.

    The owner check matters for the /tmp fallback: a stranger may have made the name first.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        os.makedirs(path, mode, exist_ok=True)
        status = os.stat(path)
    if status.st_uid != os.geteuid():
        raise PyboxError(f"{path}: owned by uid {status.st_uid}", "set PYBOX_STORE and PYBOX_STATE to directories of your own")
    return path
