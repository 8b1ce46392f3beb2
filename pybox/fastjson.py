"""JSON without the 8 ms that importing the json package costs a start (it brings re along).

CPython's C scanner and encoder are used directly; where they are not shaped as expected, the package steps in and the
result is the same, only later. RFC 8259.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Json = None | bool | int | float | str | list["Json"] | tuple["Json", ...] | dict[str, "Json"]


class _Context:
    """What ``_json.make_scanner`` wants to know of a json.JSONDecoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float

    def __init__(self) -> None:
        self.memo: dict[str, str] = {}


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


def loads(text: str) -> Json:
    """Parse one JSON value. Raises ValueError with the position when the text is not JSON."""
    try:
        from _json import make_scanner

        scan: Callable[[str, int], tuple[Json, int]] = make_scanner(_Context())  # type: ignore[arg-type]
    except (ImportError, AttributeError, TypeError):  # pragma: no cover - another Python than CPython
        import json

        return json.loads(text)  # type: ignore[no-any-return]
    start = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, end = scan(text, start)
    except StopIteration as stop:
        raise ValueError(f"not JSON at character {stop.value}") from None
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
    except SystemError:  # its word for other faults is json.decoder's JSONDecodeError, where that happens to be loaded
        raise ValueError("not JSON") from None
    if text[end:].strip(" \t\r\n"):
        raise ValueError(f"not JSON at character {end}: one value expected")
    return value


class _NotPlain(Exception):
    """A value that the C encoder is for."""


def _plain(value: Any) -> str:
    kind = type(value)
    if kind is str:
        if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
            return f'"{value}"'
    elif kind is dict:
        if all(type(key) is str for key in value):
            return "{" + ", ".join([f"{_plain(key)}: {_plain(one)}" for key, one in value.items()]) + "}"
    elif kind is list or kind is tuple:
        return "[" + ", ".join([_plain(one) for one in value]) + "]"
    elif kind is int:
        return repr(value)
    elif kind is bool or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    elif kind is float and value - value == 0:  # neither infinite nor no number
        return repr(value)
    raise _NotPlain


def dumps(value: Json) -> str:
    """Return the value as one line of JSON, ASCII only, in the given key order."""
    if "_json" not in sys.modules:  # loading the encoder costs ten times what a journal costs without it
        try:
            return _plain(value)
        except _NotPlain:
            pass
    try:
        from _json import encode_basestring_ascii, make_encoder

        encode = make_encoder(None, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, True)
        return "".join(encode(value, 0))
    except (ImportError, AttributeError):  # pragma: no cover - another Python than CPython
        import json

        return json.dumps(value)
