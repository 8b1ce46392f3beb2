"""A Spec as JSON and back: what the journal of a container and its kept configuration hold. Fields at their default are left out."""

from __future__ import annotations

from pybox.errors import StateError
from pybox.record import Record
from pybox.spec import Limits, Mount, Net, Rlimit, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json


def to_json(record: Record) -> dict[str, Json]:
    """Return the fields of a record that are not at their default, as JSON."""
    defaults = type(record)._fields
    return {name: _plain(value) for name, value in record.items() if value != defaults[name]}


def _plain(value: object) -> Json:
    if isinstance(value, Record):
        return to_json(value)
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    assert value is None or isinstance(value, (str, int, float))
    return value


def from_json(value: Json) -> Spec:
    """Return the Spec. Raises StateError for what another version of pybox has written, SpecError for what no Spec can be."""
    if not isinstance(value, dict):
        raise StateError("a container's record holds no description of what to run")
    fields: dict[str, object] = {name: tuples(entry) for name, entry in value.items()}
    try:
        fields["mounts"] = tuple(Mount.of(entry) for entry in _objects(value.get("mounts")))
        fields["rlimits"] = tuple(Rlimit.of(entry) for entry in _objects(value.get("rlimits")))
        limits = value.get("limits")
        fields["limits"] = Limits.of(dict(limits)) if isinstance(limits, dict) else Limits()
        net = value.get("net")
        fields["net"] = Net.of({name: tuples(entry) for name, entry in net.items()}) if isinstance(net, dict) else Net()
        return Spec.of(fields)
    except TypeError as error:
        raise StateError(f"a container's record is of another version of pybox: {error}") from None


def _objects(value: Json) -> list[dict[str, object]]:
    return [dict(entry) for entry in value if isinstance(entry, dict)] if isinstance(value, (list, tuple)) else []


def tuples(value: Json) -> object:
    """Return a value with its lists as tuples, which is what records hold."""
    return tuple(tuples(entry) for entry in value) if isinstance(value, (list, tuple)) else value
