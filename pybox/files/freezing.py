"""Freezing: the processes of a container stand still while its files are read, so that they fit together. cgroups(7)"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager

from pybox.host import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def frozen(groups: tuple[str, ...]) -> Iterator[None]:
    """Freeze the control group that can be frozen, if there is one; it is thawed whatever happens."""
    freezers = [f"{group}/cgroup.freeze" for group in groups if read(f"{group}/cgroup.freeze").strip() == "0"]
    try:
        for path in freezers:
            _write(path, "1")
            _settle(os.path.dirname(path))
        yield
    finally:
        for path in freezers:
            try:
                _write(path, "0")
            except OSError:  # it has ended, and its group with it
                pass


def _settle(group: str) -> None:
    """Wait until all stand still; one that the kernel holds up can't, and is not waited for longer than a second."""
    for _ in range(200):
        if "frozen 1" in read(f"{group}/cgroup.events"):
            return
        time.sleep(0.005)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
