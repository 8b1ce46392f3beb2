"""Reading: the jobs of a TOML, JSONL or CSV file, one after the other, each with its place. Nothing is kept of those that went by.

TOML    [defaults], and [[job]] tables; array = 100 | "1-100:2" | [..] makes one table many jobs, with {i} in its texts
JSONL   a job in each line, taken as it is
CSV     a job in each row, from a template with {column} in its texts, or from columns that are called like fields
"""

from __future__ import annotations

import re

from pybox import fastjson
from pybox.batch.fields import ALIASES, CELLS, checked, wanted
from pybox.batch.places import BadLine, CellPlace, LinePlace, Place, TomlKeys, TomlPlace
from pybox.errors import SpecError
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pybox.batch.source import Source
    from pybox.fastjson import Json
    from pybox.jobs.job import Job

_MOST = 10_000_000  # elements of an array


class Entry(Record):
    """One job of a batch file."""

    job: Job
    place: Place
    needs: tuple[str, ...] = ()
    group: str = ""  # the name of its array
    heads: bool = False  # the first of its array


def entries(source: Source, defaults: Mapping[str, Json]) -> Iterator[Entry]:
    """Yield the jobs of a file. ``defaults`` is for what neither a job nor the file says. Raises BadLine."""
    return {"toml": _toml, "jsonl": _jsonl, "csv": _csv}[source.format](source, checked(defaults))


def _with(defaults: Mapping[str, Json], said: Mapping[str, Json]) -> dict[str, Json]:
    """Return what is said over its defaults; variables are put together."""
    env, more = defaults.get("env"), said.get("env")
    both = {**env, **more} if isinstance(env, dict) and isinstance(more, dict) else more or env
    return {**defaults, **said, **({} if both is None else {"env": both})}


# --- JSONL -------------------------------------------------------------------------------------------------------------------


def _jsonl(source: Source, defaults: dict[str, Json]) -> Iterator[Entry]:
    for number, line in source.lines():
        if not line.strip():
            continue
        place = LinePlace(source.name, number, line)
        try:
            said = fastjson.loads(line)
        except ValueError as error:
            raise _not_json(place, str(error)) from None
        try:
            if not isinstance(said, dict):
                raise SpecError("job", line.strip()[:40], "must be an object with image and args")
            if "array" in said:
                raise SpecError("array", "", "only a TOML file has arrays", "write a line for each job")
            job, needs = wanted(_with(defaults, checked(said)))
        except SpecError as error:
            raise place.bad(error) from None
        yield Entry(job, place, needs)


def _not_json(place: LinePlace, reason: str) -> BadLine:
    """Return the error of a line that is no JSON: now the package that knows the place may cost what it likes."""
    import json

    column = 1
    try:
        json.loads(place.text)
    except json.JSONDecodeError as error:
        column, reason = error.pos + 1, error.msg.lower()
    except RecursionError:
        pass
    return BadLine(place.file, place.line, column, f"not JSON: {reason}", "one object in each line")


# --- CSV ---------------------------------------------------------------------------------------------------------------------


def _csv(source: Source, defaults: dict[str, Json]) -> Iterator[Entry]:
    import csv

    reader = csv.reader((line for _, line in source.lines()), strict=True)
    columns: list[str] = []
    begins = 1
    try:
        for row in reader:
            begins, line = reader.line_num + 1, begins
            if not row:
                continue
            if not columns:
                columns = _header(source, [cell.strip() for cell in row], line)
                if "args" not in defaults and "command" not in columns:
                    raise BadLine(
                        source.name, line, 1, "command: is missing", "--command 'TEXT with {column}', or a column of that name"
                    )
                continue
            if len(row) != len(columns):
                raise BadLine(source.name, line, min(len(row), len(columns)) + 1, f"{len(row)} cells, but {len(columns)} columns")
            yield _row(CellPlace(source.name, line, columns), defaults, dict(zip(columns, row, strict=True)))
    except csv.Error as error:
        raise BadLine(source.name, reader.line_num or 1, 1, f"not CSV: {error}") from None


def _header(source: Source, columns: list[str], line: int) -> list[str]:
    for number, column in enumerate(columns, 1):
        if not column or columns.index(column) != number - 1:
            raise BadLine(
                source.name, line, number, f"{column}: two columns of that name" if column else "a column without a name"
            )
    return columns


def _row(place: CellPlace, defaults: dict[str, Json], cells: dict[str, str]) -> Entry:
    # what the command line says goes first: a column of that name is for placeholders then. A cell is data, its braces are its own
    said: dict[str, Json] = {
        name: cells[name].replace("{", "{{").replace("}", "}}")
        for name in CELLS
        if cells.get(name) and ALIASES.get(name, name) not in defaults
    }
    try:
        job, needs = wanted({**defaults, **checked(said)}, cells)
    except SpecError as error:
        raise place.bad(error) from None
    return Entry(job, place, needs)


# --- TOML --------------------------------------------------------------------------------------------------------------------


def _toml(source: Source, defaults: dict[str, Json]) -> Iterator[Entry]:
    import tomllib

    text = source.text()
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax(source, text, str(error)) from None
    for key in document:
        if key not in ("defaults", "job"):
            keys = TomlKeys(text)
            near = "job" if key.startswith("j") else "defaults" if key.startswith("def") else ""
            raise BadLine(
                source.name,
                *keys.places.get(("", key), keys.places.get((key, ""), (1, 1))),
                f"{key}: no such table",
                f"did you mean {'[[job]]' if near == 'job' else '[defaults]'}?" if near else "there are [defaults] and [[job]]",
            )
    jobs, own = document.get("job", []), document.get("defaults", {})
    if not isinstance(jobs, list) or not all(isinstance(job, dict) for job in jobs):
        raise BadLine(source.name, *TomlKeys(text).places.get(("", "job"), (1, 1)), "job: must be [[job]] tables")
    for number, said in enumerate(jobs):
        place = TomlPlace(source.name, text, number)
        try:
            if not isinstance(own, dict):
                raise SpecError("defaults", own, "must be a table")
            fields = _with(_with(defaults, checked(own)), checked(said))
            yield from _elements(place, fields)
        except SpecError as error:
            raise place.bad(error) from None


def _syntax(source: Source, text: str, said: str) -> BadLine:
    """Return the error of a text that is no TOML: tomllib tells the place in words."""
    where = re.search(r" \(at line (\d+), column (\d+)\)$", said)
    line, column = (int(where[1]), int(where[2])) if where else (text.count("\n") + 1, len(text) - text.rfind("\n"))
    return BadLine(source.name, line, column, f"not TOML: {re.sub(r' [(]at .*', '', said).lower()}")


def _elements(place: Place, fields: dict[str, Json]) -> Iterator[Entry]:
    array = fields.get("array")
    if array is None:
        job, needs = wanted(fields)
        yield Entry(job, place, needs)
        return
    name = str(fields.get("name", ""))
    plain = bool(name) and not re.search(r"(?<!\{)\{[^{}]+\}", name)  # no placeholder: the name of them all
    for number, values in enumerate(_values(array)):
        job, needs = wanted({**fields, "name": f"{name}[{{i}}]"} if plain else fields, values)
        yield Entry(job, place, needs, name if plain else "", number == 0)


def _values(array: Json) -> Iterator[dict[str, str]]:
    """Yield what {i}, and the columns of a list of tables, stand for in each element. Raises SpecError."""
    if isinstance(array, (list, tuple)):
        if not array:
            raise SpecError("array", "[]", "is empty")
        for number, element in enumerate(array):
            if isinstance(element, dict):
                yield {"i": str(number), **{key: _plain(value) for key, value in element.items()}}
            else:
                yield {"i": _plain(element)}
        return
    yield from ({"i": str(number)} for number in span(array))


def _plain(value: Json) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise SpecError("array", str(value), "an element must be a text, a number, or a table of these")
    return str(value)


def span(array: Json) -> range:
    """Return the numbers of ``100`` (from 0), ``"1-100"`` or ``"1-100:2"`` (both ends in it). Raises SpecError."""
    if isinstance(array, int) and not isinstance(array, bool):
        found = range(array)
    else:
        match = re.fullmatch(r"(\d{1,12})-(\d{1,12})(?::(\d{1,12}))?", str(array), re.ASCII)
        if not match or match[3] in ("0", "00"):
            raise SpecError(
                "array", str(array), "must be a number, FIRST-LAST[:STEP] or a list", 'e.g. 100, "1-100:2", ["a", "b"]'
            )
        found = range(int(match[1]), int(match[2]) + 1, int(match[3] or 1))
    if not 1 <= len(found) <= _MOST:
        raise SpecError("array", str(array), f"must have 1 to {_MOST} elements")
    return found
