"""Freezing: the processes of a container stand still while its files are read, so that they fit together."""

from __future__ import annotations

from contextlib import contextmanager

from pybox.errors import PyboxError
from pybox.kernel import freezer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE = 1.0  # seconds; one that the kernel holds up is not waited for longer, its files are read as they are


@contextmanager
def frozen(groups: tuple[tuple[str, str], ...]) -> Iterator[None]:
    """Freeze a container if it can be, and thaw it whatever happens; one that was paused before stays so."""
    if freezer.frozen(groups):
        yield
        return
    try:
        freezer.freeze(groups, _PATIENCE)
    except PyboxError:
        yield
        return
    try:
        yield
    finally:
        try:
            freezer.thaw(groups)
        except PyboxError:  # it has ended, and its group with it
            pass
