"""Places: where in a file something stands, so that a mistake is told as FILE:LINE:COLUMN. Only who has made one pays for the search."""

from __future__ import annotations

import re
from bisect import bisect_right

from pybox.errors import PyboxError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# What Specs and Jobs call a field in their errors, where a batch file calls it something else.
_SPELLINGS = {
    "args": ("args", "command"),
    "volume": ("volumes", "mounts"),
    "pids-limit": ("pids", "pids_limit"),
    "ulimit": ("ulimits",),
    "job": (),
}


class BadLine(PyboxError):
    """A batch file that can't be meant: where, which field, and why."""

    def __init__(self, file: str, line: int, column: int, reason: str, hint: str | None = None) -> None:
        super().__init__(f"{file}:{line}:{column}: {reason}", hint)


class Place:
    """Where a job stands. ``at`` gives line and column of one of its fields, or of the job where the field is nowhere."""

    def __init__(self, file: str, line: int) -> None:
        self.file = file
        self.line = line

    def at(self, fields: tuple[str, ...]) -> tuple[int, int]:
        """Return (line, column), both from 1, of the first of these fields that is there."""
        return self.line, 1

    def bad(self, error: SpecError) -> BadLine:
        """Return the error with its place."""
        spelled = error.field.replace("-", "_")
        line, column = self.at((spelled, *_SPELLINGS.get(error.field, ())))
        return BadLine(self.file, line, column, error.message, error.hint)


class LinePlace(Place):
    """A job that is one line of JSON."""

    def __init__(self, file: str, line: int, text: str) -> None:
        super().__init__(file, line)
        self.text = text

    def at(self, fields: tuple[str, ...]) -> tuple[int, int]:
        """Return the place of the key."""
        keys = dict(reversed(list(_keys_of_object(self.text))))
        return self.line, next((keys[field] for field in fields if field in keys), 1)


class CellPlace(Place):
    """A job that is a row of a table: its column is that of the header, counted in cells."""

    def __init__(self, file: str, line: int, columns: list[str]) -> None:
        super().__init__(file, line)
        self.columns = columns

    def at(self, fields: tuple[str, ...]) -> tuple[int, int]:
        """Return the number of the cell."""
        return self.line, next((self.columns.index(field) + 1 for field in fields if field in self.columns), 1)


_JSON = re.compile(r'"(?:\\.|[^"\\])*"|[\[\]{}]|[^"\[\]{}]+', re.S)


def _keys_of_object(text: str) -> Iterator[tuple[str, int]]:
    """Yield (key, column) of the outermost object of a line of JSON."""
    depth = 0
    for token in _JSON.finditer(text):
        first = token[0][0]
        if first in "[{":
            depth += 1
        elif first in "]}":
            depth -= 1
        elif first == '"' and depth == 1 and text[token.end() :].lstrip().startswith(":"):
            yield token[0][1:-1], token.start() + 1


class TomlPlace(Place):
    """A job that is a table of a TOML file, or comes of [defaults]."""

    def __init__(self, file: str, text: str, number: int) -> None:
        super().__init__(file, 1)
        self._text = text
        self._number = number

    def at(self, fields: tuple[str, ...]) -> tuple[int, int]:
        """Return the place of the key: in the job, else in the defaults; else of the job."""
        places = TomlKeys(self._text).places
        for table in (f"job {self._number}", "defaults"):
            for field in fields:
                if (table, field) in places:
                    return places[table, field]
        return places.get((f"job {self._number}", ""), places.get(("", "job"), (1, 1)))


_TOML = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|'
    r"'''.*?'{3,5}|"
    r'"(?:\\.|[^"\\\n])*"|'
    r"'[^'\n]*'|#[^\n]*|\n|[\[\]{}=]|[ \t\r]+|[^\s\"'#\[\]{}=]+",
    re.S,
)
_HEADER = re.compile(r"\s*\[+\s*([^\]#\n]+?)\s*\]")


class TomlKeys:
    """Where the keys of a TOML file that could be parsed stand: tomllib does not tell."""

    def __init__(self, text: str) -> None:
        self.places: dict[tuple[str, str], tuple[int, int]] = {}  # (table, key); key "" is the table's own header
        self._jobs = -1
        self._table = ""
        starts = [0, *(newline.end() for newline in re.finditer("\n", text))]
        depth, fresh, position = 0, True, 0
        while match := _TOML.match(text, position):
            token, position = match[0], match.end()
            if token == "\n":
                fresh = fresh or depth == 0
            elif fresh and token[0] not in "# \t\r":
                line = bisect_right(starts, match.start())
                where = line, match.start() - starts[line - 1] + 1
                header = _HEADER.match(text, match.start()) if token == "[" else None
                if header:
                    self._header(header[1].split("."), header[0].lstrip().startswith("[["), where)
                    position = text.find("\n", header.end())
                    if position < 0:
                        return
                else:
                    self.places.setdefault((self._table, token.split(".")[0].strip("\"' \t")), where)
                    fresh = False
            elif token in "[{":
                depth += 1
            elif token in "]}":
                depth -= 1

    def _header(self, names: list[str], array: bool, where: tuple[int, int]) -> None:
        names = [name.strip().strip("\"'") for name in names]
        if names == ["job"] and array:
            self._jobs += 1
        self._table = f"job {self._jobs}" if names[0] == "job" else names[0]
        key = names[1] if len(names) > 1 else ""
        self.places.setdefault((self._table, key), where)
        if len(names) > 1:
            self._table += f" {key}"
        elif names[0] not in ("job", "defaults"):
            self.places.setdefault(("", names[0]), where)
