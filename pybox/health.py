"""What is known of the health of a container: the record of its last checks, and what one more result makes of it.

    <state>/ID/health    JSON, replaced by rename; there is none before the first check

A container is "starting" until a check has succeeded, or as many in a row have failed as make it unhealthy. Nothing else follows
from it: as with docker, an unhealthy container is shown as such and left alone. checking.py makes the checks.
"""

from __future__ import annotations

import os

from pybox import fastjson, state
from pybox.dirs import Dirs
from pybox.errors import ImageError
from pybox.host import read
from pybox.kept import Health
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from pybox.fastjson import Json

    Status = Literal["starting", "healthy", "unhealthy"]

REMEMBERED = 5  # checks
OUTPUT = 4096  # bytes of what one check writes
TIMED_OUT = -1  # in place of an exit code, as docker has it
_NANO = 1e9
STATUSES = ("starting", "healthy", "unhealthy")


class Check(Record):
    """One check that was made."""

    start: float  # seconds since the epoch
    end: float
    exit_code: int  # 0 is healthy
    output: str


class Condition(Record):
    """How a container is."""

    status: Status = "starting"
    failing: int = 0  # checks in a row
    checks: tuple[Check, ...] = ()  # the last few, oldest first

    def after(self, check: Check, wanted: Health, started: float) -> Condition:
        """Return how it is after one more check of a container that was started then (seconds since the epoch)."""
        checks = (*self.checks, check)[-REMEMBERED:]
        if check.exit_code == 0:
            return Condition("healthy", 0, checks)
        if self.status == "starting" and check.start - started < wanted.start_period:
            return self.replace(checks=checks)
        failing = self.failing + 1
        return Condition("unhealthy" if failing >= wanted.retries else self.status, failing, checks)

    def to_json(self) -> dict[str, Json]:
        """Return it as its file and `pybox inspect` have it."""
        checks: list[Json] = [dict(check.items()) for check in self.checks]  # type: ignore[arg-type]
        return {"status": self.status, "failing": self.failing, "checks": checks}


def load(path: str) -> Condition:
    """Return how the container of a record is; starting when nothing is known."""
    found = state.parse(read(f"{path}/health")) or {}
    status, failing, checks = found.get("status"), found.get("failing"), found.get("checks")
    try:
        assert status in STATUSES and isinstance(failing, int) and isinstance(checks, list)
        return Condition(status, failing, tuple(Check.of(dict(check)) for check in checks if isinstance(check, dict)))  # type: ignore[arg-type]
    except (AssertionError, TypeError):  # of another version
        return Condition()


def save(path: str, condition: Condition) -> None:
    """Write down how a container is. Raises OSError; then it is as before."""
    fd = os.open(f"{path}/health.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, fastjson.dumps(condition.to_json()).encode())
    finally:
        os.close(fd)
    os.rename(f"{path}/health.new", f"{path}/health")


def of_config(blob: str) -> Health | None:
    """Return the check that an image's configuration asks for; None when there is none, or not one that can be made.

    Docker's Healthcheck: Test is ["CMD", ARG...], ["CMD-SHELL", TEXT] or ["NONE"]; times are nanoseconds, 0 the default.
    """
    document = state.parse(blob) or {}
    config = document.get("config")
    asked = config.get("Healthcheck") if isinstance(config, dict) else None
    test = asked.get("Test") if isinstance(asked, dict) else None
    if not isinstance(asked, dict) or not isinstance(test, list) or not all(isinstance(word, str) for word in test):
        return None
    kind, *words = [str(word) for word in test] or [""]
    if kind == "CMD-SHELL" and words:
        words = ["/bin/sh", "-c", words[0]]
    elif kind != "CMD" or not words:
        return None
    usual = Health(tuple(words))
    retries = asked.get("Retries")
    return Health(
        tuple(words),
        _seconds(asked.get("Interval"), usual.interval),
        _seconds(asked.get("Timeout"), usual.timeout),
        retries if isinstance(retries, int) and retries > 0 else usual.retries,
        _seconds(asked.get("StartPeriod"), usual.start_period),
    )


def of_image(dirs: Dirs, image_id: str) -> Health | None:
    """Return the check that an image asks for; None when there is none."""
    from pybox.image import store

    try:
        return of_config(store.config_blob(dirs, image_id).decode(errors="replace"))
    except ImageError:  # host has no configuration; a damaged one has been told about by who ran it
        return None


def _seconds(nanoseconds: Json, default: float) -> float:
    good = isinstance(nanoseconds, (int, float)) and 0 < nanoseconds < 1e9 * _NANO
    return float(nanoseconds) / _NANO if good else default  # type: ignore[arg-type]
