"""State: a stage as it is after some of its instructions."""

from __future__ import annotations

import json

from pybox.containerfile import settings
from pybox.image.model import Image
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json


class State(Record):
    """What a stage is so far. The next step's key begins with ``key``, which stands for all that came before."""

    key: str
    image: Image  # whose layers it stands on: of the store, or scratch
    diff_ids: tuple[str, ...]  # lowest first
    config: dict[str, Json]  # "config" of its configuration
    document: dict[str, Json]  # other fields of it that are handed down
    history: tuple[str, ...]  # JSON
    created: str  # RFC 3339
    args: tuple[tuple[str, str], ...] = ()  # ARG, with their values
    own_cmd: bool = False  # CMD was said in this stage

    def values(self) -> dict[str, str]:
        """Return the variables that instructions may use: an ENV counts more than an ARG."""
        return {**dict(self.args), **settings.environment(self.config)}

    def after(
        self, key: str, said: str, created: str, image: Image | None = None, diff_ids: tuple[str, ...] | None = None
    ) -> State:
        """Return the state after one more step; without an image it made no files."""
        step: dict[str, Json] = {"created": created, "created_by": said, "comment": "pybox build"}
        if image is None:
            step["empty_layer"] = True
        return self.replace(
            key=key,
            created=created,
            history=(*self.history, json.dumps(step)),
            image=image or self.image,
            diff_ids=self.diff_ids if diff_ids is None else diff_ids,
        )

    def text(self, field: str) -> str:
        """Return a text of the settings, "" when there is none."""
        found = self.config.get(field)
        return found if isinstance(found, str) else ""
