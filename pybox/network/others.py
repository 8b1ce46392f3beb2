"""Another container, whose network is to be shared: its process 1, by its name, its id or the beginning of that."""

from __future__ import annotations

import os

from pybox.dirs import Dirs
from pybox.errors import StateError
from pybox.host import read


def process_of(dirs: Dirs, wanted: str) -> tuple[str, int]:
    """Return the id and the pid of the process 1 of a container that runs. Raises StateError."""
    try:
        found = [os.readlink(f"{dirs.store}/names/{wanted}")]
    except OSError:
        found = [name for name in _records(dirs) if name.startswith(wanted)]
    if len(found) > 1:
        raise StateError(f"{wanted} is the beginning of several ids: {', '.join(sorted(found)[:5])}")
    pid = read(f"{dirs.state}/{found[0]}/journal").partition("\n")[2].strip() if found else ""
    if not pid.isdigit():
        raise StateError(f"no container {wanted} runs, whose network could be shared", "`pybox ps` lists them")
    return found[0], int(pid)


def _records(dirs: Dirs) -> list[str]:
    try:
        return [name for name in os.listdir(dirs.state) if len(name) == 12 and os.path.exists(f"{dirs.state}/{name}/journal")]
    except FileNotFoundError:
        return []
