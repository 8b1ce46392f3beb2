"""Lowering: the steps of a plan become rows, which C walks (csrc/pybox.h), and a blob of the strings that they point into."""

from __future__ import annotations

from _struct import Struct

from pybox.native import ID_TOKEN, ROW, Program, lib, number
from pybox.paths import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_TOKEN = ID_TOKEN.encode()
_ROW = Struct(ROW)


class Table:
    """Collects rows while the steps of a plan are lowered."""

    def __init__(self) -> None:
        self._rows: list[bytes] = []
        self._blob = bytearray(b"\0")
        self._id_at: list[int] = []
        self._slots: dict[str, int] = {}

    def slot(self, name: str | None) -> int:
        """Return the number of a named fd; the first use names it."""
        return -1 if name is None else self._slots.setdefault(name, len(self._slots))

    def text(self, value: str | None, mine: bool = False) -> int:
        """Add a string, return its offset. ``mine``: pybox made it, so ID_TOKEN in it means the id; users' texts are left alone."""
        if value is None:
            return 0
        raw = encode(value)
        offset = len(self._blob)
        at = raw.find(_TOKEN) if mine else -1
        while at >= 0:
            self._id_at.append(offset + at)
            at = raw.find(_TOKEN, at + 1)
        self._blob += raw + b"\0"
        return offset

    def texts(self, values: Iterable[str], mine_first: bool = False) -> int:
        """Add strings one after the other, return the offset of the first; ``mine_first``: see ``mine`` of text."""
        offset = len(self._blob)
        for value in values:
            self.text(value, mine_first)
            mine_first = False
        return offset

    def raw(self, value: bytes) -> int:
        """Add bytes, return their offset."""
        offset = len(self._blob)
        self._blob += value
        return offset

    def row(
        self,
        op: str,
        *,
        tolerate: int = 0,
        fd: int = -1,
        out: int = -1,
        a: int = 0,
        b: int = 0,
        c: int = 0,
        d: int = 0,
        x: int = 0,
        y: int = 0,
        z: int = 0,
    ) -> None:
        """Add one row; see csrc/pybox.h for the meaning of the fields of each op."""
        self._rows.append(_ROW.pack(getattr(lib, op), tolerate, fd, out, a, b, c, d, x, y, z))

    def number(self, name: str) -> int:
        """Return a constant by its C name."""
        return number(name)

    def flags(self, names: Iterable[str]) -> int:
        """Return the sum of named flags."""
        total = 0
        for name in names:
            total |= getattr(lib, name)
        return total

    def program(self) -> Program:
        """Return what was collected."""
        if len(self._rows) > lib.PB_ROWS or len(self._slots) > lib.PB_SLOTS:
            raise ValueError(f"a plan of {len(self._rows)} rows and {len(self._slots)} fds is too long")
        return Program(b"".join(self._rows), len(self._rows), bytes(self._blob), tuple(self._id_at), tuple(self._slots.items()))
