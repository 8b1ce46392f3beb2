"""Item: what doctor says of one matter, and Report: of all. Frozen; the same fields in the text and in the JSON."""

from __future__ import annotations

from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from pybox.fastjson import Json

    Level = Literal["ok", "warn", "fail", "n/a"]
    Purpose = Literal["run", "rootless"]

PURPOSES: tuple[Purpose, ...] = ("run", "rootless")


class Item(Record):
    """One matter. A warning or a failure says what is lost and how to mend it; an Item that doesn't can't be made."""

    id: str
    title: str
    level: Level
    tried: str
    happened: str
    lost: str = ""
    fix: str = ""  # one line to copy, or a sentence where no command can do it
    blocks: tuple[Purpose, ...] = ()  # what a failure makes impossible
    details: tuple[tuple[str, str], ...] = ()

    def validate(self) -> None:
        """Refuse a complaint without its consequence or without a way out."""
        if self.level not in ("ok", "warn", "fail", "n/a"):
            raise ValueError(f"{self.level!r} is no level")
        if self.level in ("warn", "fail") and not (self.lost and self.fix):
            raise ValueError(f"{self.id}: a {self.level} needs lost and fix")

    @property
    def recheck(self) -> str:
        """The command that tries it again."""
        return f"pybox doctor {self.id}"

    def to_json(self) -> dict[str, Json]:
        """Return the item as `--format json` shows it."""
        return {
            "id": self.id,
            "title": self.title,
            "level": self.level,
            "tried": self.tried,
            "happened": self.happened,
            "you_lose": self.lost,
            "fix": self.fix,
            "recheck": self.recheck,
            "blocks": self.blocks,
            "details": dict(self.details),
        }


class Report(Record):
    """What was found. ``single``: only one matter was asked for, and the verdict is about that one."""

    found: tuple[Item, ...]
    purpose: Purpose
    single: bool = False

    @property
    def blockers(self) -> tuple[Item, ...]:
        """The failures that stand in the way of the purpose."""
        return tuple(item for item in self.found if item.level == "fail" and (self.single or self.purpose in item.blocks))

    @property
    def usable(self) -> bool:
        """Whether nothing stands in the way."""
        return not self.blockers

    def to_json(self) -> dict[str, Json]:
        """Return the report as `--format json` shows it."""
        return {
            "schema": "pybox.doctor/1",
            "usable": self.usable,
            "for": self.purpose,
            "items": [item.to_json() for item in self.found],
        }
