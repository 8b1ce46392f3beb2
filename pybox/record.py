"""Record: the frozen value that every noun of pybox is made of.

A Spec, a Step, an Image, a Result are all Records: fields by annotation, defaults by assignment, no change after birth. It is
what ``@dataclass(frozen=True, slots=True)`` gives, without the 17 ms that importing dataclasses costs each ``pybox run``
(facts: shared/facts/costs.md). Type checkers see a dataclass, through PEP 681.

Every module that defines a Record starts with ``from __future__ import annotations``: the annotations stay strings, so naming
a field costs no import.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda cls: cls


class _Missing:
    """Marks a field without a default."""


_MISSING = _Missing()


@dataclass_transform(frozen_default=True)
class _RecordType(type):
    """Turns annotations into slots before the class exists (a slot can't share its name with a class attribute)."""

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, object]) -> _RecordType:
        inherited: dict[str, object] = {}
        for base in reversed(bases):
            inherited.update(getattr(base, "_fields", {}))
        own: dict[str, object] = {}
        notes = body.get("__annotations__", {})
        assert isinstance(notes, dict)
        for field, note in notes.items():
            if not str(note).startswith("ClassVar"):
                own[field] = body.pop(field, _MISSING)
        body["__slots__"] = tuple(field for field in own if field not in inherited)
        body["_fields"] = {**inherited, **own}
        return super().__new__(mcs, name, bases, body)


class Record(metaclass=_RecordType):
    """A frozen value with named fields; positional or keyword arguments, in the order of the annotations.

    ``validate`` runs once, at birth: a Record that exists is a Record that makes sense.
    """

    _fields: ClassVar[dict[str, object]]
    _values: ClassVar[Callable[[object], object]]  # made when the first two are compared

    def __init__(self, *args: object, **kwargs: object) -> None:
        put = object.__setattr__
        fields = self._fields
        given = dict(zip(fields, args, strict=False))
        if len(args) > len(fields) or not given.keys().isdisjoint(kwargs):
            raise TypeError(f"{type(self).__name__}: more values than fields, or one given twice")
        given.update(kwargs)
        for field, default in fields.items():
            value = given.pop(field, default)
            if value is _MISSING:
                raise TypeError(f"{type(self).__name__} needs {field}")
            put(self, field, value)
        if given:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(given)}")
        self.validate()

    def validate(self) -> None:
        """Refuse nonsense at birth; raises SpecError or ValueError."""

    def __setattr__(self, field: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{field} is frozen")

    def __delattr__(self, field: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{field} is frozen")

    def items(self) -> Iterator[tuple[str, object]]:
        """Yield (field, value) in the order of the annotations."""
        return ((field, getattr(self, field)) for field in self._fields)

    @classmethod
    def of(cls, fields: dict[str, object]) -> Self:
        """Return a record of values by field name. Raises TypeError for a field that is missing or unknown."""
        return cls(**fields)

    def replace(self, **changes: object) -> Self:
        """Return a copy with some fields changed; validated again."""
        return type(self)(**{**dict(self.items()), **changes})

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return type(self), tuple(value for _, value in self.items())

    def _key(self) -> object:
        cls = type(self)
        if "_values" not in cls.__dict__:
            from _operator import attrgetter  # all fields at once, in C

            cls._values = staticmethod(attrgetter(*cls._fields) if cls._fields else type)
        return cls._values(self)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{field}={value!r}' for field, value in self.items())})"
