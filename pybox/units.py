"""Reading what people type: sizes, durations, CPU counts. Docker's grammar, checked; each failure is one SpecError."""

from __future__ import annotations

from pybox.errors import SpecError

_BYTES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_MOST = (1 << 63) - 1


def _number(field: str, text: str, units: dict[str, float] | dict[str, int], example: str) -> float:
    digits = text.strip().lower()
    unit = digits.lstrip("0123456789.")
    digits = digits[: len(digits) - len(unit)]
    unit = unit.strip()
    if unit not in units and "b" in units and unit[0] != "b" and unit[1:] in ("b", "ib"):
        unit = unit[0]
    # 40 digits are more than any bound that follows; Python's int() and float() give up at thousands
    if not digits or digits.count(".") > 1 or digits == "." or len(digits) > 40 or unit not in units:
        raise SpecError(field, text, f"not a size or number, e.g. {example}")
    scale = units[unit]
    return int(digits) * scale if digits.isdigit() else float(digits) * scale


def parse_bytes(field: str, value: int | str | None) -> int | None:
    """Return a size in bytes: ``64M``, ``1.5g``, ``512KiB`` or an int. Raises SpecError."""
    if value is None:
        return None
    size = value if isinstance(value, int) else int(_number(field, value, _BYTES, "64M or 1.5g"))
    if isinstance(value, bool) or not 0 <= size <= _MOST:
        raise SpecError(field, value, "out of range")
    return size


def parse_seconds(field: str, value: float | str | None) -> float | None:
    """Return a duration in seconds: ``5``, ``0.5``, ``100ms``, ``2m`` or a number. Raises SpecError."""
    if value is None:
        return None
    seconds = value if isinstance(value, (int, float)) else _number(field, value, _SECONDS, "5, 0.5, 100ms or 2m")
    if not 0 < seconds < 1e9:  # also refuses nan
        raise SpecError(field, value, "must be more than 0 and less than 30 years")
    return float(seconds)


def parse_cpus(field: str, value: float | str | None) -> float | None:
    """Return a number of CPUs: ``0.5``, ``2``. Raises SpecError."""
    if value is None:
        return None
    if isinstance(value, str) and (
        value.strip().strip("0123456789.") or len(value) > 40
    ):  # float() takes 1_0 and other scripts' digits
        raise SpecError(field, value, "not a number of CPUs, e.g. 0.5")
    try:
        cpus = float(value)
    except (ValueError, OverflowError):
        raise SpecError(field, value, "not a number of CPUs, e.g. 0.5") from None
    if not 0.01 <= cpus <= 100_000:
        raise SpecError(field, value, "must be at least 0.01", "0.5 is half of one CPU")
    return cpus


def parse_int(field: str, value: int | str | None, least: int, most: int) -> int | None:
    """Return a whole number between two bounds. Raises SpecError."""
    if value is None:
        return None
    text = str(value).strip()
    digits = text[1:] if text[:1] == "-" else text
    if isinstance(value, bool) or not (digits.isascii() and digits.isdigit()) or len(digits) > 40:
        raise SpecError(field, value, "not a whole number")
    number = int(text)
    if not least <= number <= most:
        raise SpecError(field, value, f"must be between {least} and {most}")
    return number
