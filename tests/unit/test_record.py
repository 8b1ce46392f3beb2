"""A Record is frozen, named, checked at birth, and tells itself apart by its fields."""

from __future__ import annotations

import copy
import pickle

import pytest

from pybox.errors import SpecError
from pybox.record import Record
from pybox.spec import Limits, Spec


class Point(Record):
    x: int
    y: int = 0
    z: tuple[int, ...] = ()


class Named(Point):
    name: str = "p"


def test_fields_come_by_position_or_name_and_defaults_fill_the_rest() -> None:
    assert (Point(1, z=(3,)).x, Point(1, z=(3,)).y, Point(1, z=(3,)).z) == (1, 0, (3,))
    assert dict(Named(1, name="a").items()) == {"x": 1, "y": 0, "z": (), "name": "a"}


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "Point needs x"),
        ((1, 2, (), 4), {}, "Point: more values than fields, or one given twice"),
        ((1,), {"x": 2}, "Point: more values than fields, or one given twice"),
        ((1,), {"w": 2}, "Point has no field w"),
    ],
)
def test_a_wrong_call_is_refused_and_says_why(args: tuple[int, ...], kwargs: dict[str, int], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}$"):
        Point(*args, **kwargs)


def test_a_record_cannot_be_changed() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match=r"^Point\.x is frozen$"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match=r"^Point\.x is frozen$"):
        del point.x
    with pytest.raises(AttributeError):
        point.w = 2  # type: ignore[attr-defined]
    assert point.replace(x=5) == Point(5) and point == Point(1)


def test_equality_and_hash_are_those_of_the_fields_and_the_class() -> None:
    assert Point(1) == Point(1) and hash(Point(1)) == hash(Point(1))
    assert Point(1) != Point(2) and Point(1) != Named(1) and Point(1) != (1, 0, ())


def test_it_survives_pickle_and_copy() -> None:
    spec = Spec(image="busybox", args=("true",), limits=Limits(memory=1 << 20))
    assert pickle.loads(pickle.dumps(spec)) == spec == copy.deepcopy(spec)


def test_a_replaced_record_is_checked_again() -> None:
    with pytest.raises(SpecError):
        Limits(pids=4).replace(pids=0)
