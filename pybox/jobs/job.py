"""Job: one command in one container, as a frozen value that survives JSON. What `run` takes as arguments, a Job keeps."""

from __future__ import annotations

from pybox import fastjson
from pybox.api import Container, options_of, spec_of
from pybox.errors import SpecError
from pybox.record import Record
from pybox.spec import Mount, Rlimit
from pybox.specjson import to_json
from pybox.units import parse_int, parse_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from pybox.fastjson import Json
    from pybox.runtime import Options
    from pybox.spec import Spec


class Job(Record):
    """A job, checked at birth: a Job that exists can be asked for. ``container`` are the options of pybox.run by name.

    Job("tools", ["blast", "in/7.fa"], memory="2G", timeout=600, name="q7")
    """

    image: str
    args: tuple[str, ...]
    name: str
    timeout: float | None  # seconds
    input: str | None  # for stdin
    retries: int | None  # None: those of run_many
    container: tuple[tuple[str, Json], ...]  # sorted by name
    made: Spec | None  # of its container, as it was checked; None where it depends on when it is asked for

    def __init__(
        self,
        image: str,
        args: Sequence[str] = (),
        *,
        name: str = "",
        timeout: float | str | None = None,
        input: str | None = None,
        retries: int | None = None,
        **container: Unpack[Container],
    ) -> None:
        """Check and keep. Raises SpecError, and TypeError for an option that does not exist."""
        spec = spec_of(image, args, container)
        seconds, again = parse_seconds("timeout", timeout), parse_int("retries", retries, 0, 1000)
        kept = tuple(sorted((option, _plain(option, value)) for option, value in container.items()))
        super().__init__(
            image, tuple(args), name, seconds, input, again, kept, None if spec.mounts or container.get("hpc") else spec
        )

    def __repr__(self) -> str:
        return f"Job.from_json({self.to_json()!r})"

    def options(self) -> Container:
        """Return the options of the container by name."""
        found: Container = dict(self.container)  # type: ignore[assignment]  # __init__ has checked them
        return found

    def spec(self) -> Spec:
        """Return the Spec of its container."""
        return self.made or spec_of(self.image, self.args, self.options())

    def run_options(self) -> Options:
        """Return what is asked of the run beside the container; its output is captured."""
        return options_of(timeout=self.timeout, input=self.input, capture=True, stdout=None, stderr=None, name="")

    def to_json(self) -> dict[str, Json]:
        """Return it as JSON, without what is at its default."""
        plain: dict[str, Json] = {"image": self.image, "args": self.args}
        for field in ("name", "timeout", "input", "retries"):
            value: Json = getattr(self, field)
            if value not in (None, ""):
                plain[field] = value
        return {**plain, **dict(self.container)}

    @classmethod
    def from_json(cls, value: Json) -> Job:
        """Return the Job of an object. Raises SpecError that names the field."""
        if not isinstance(value, dict):
            raise SpecError("job", str(value)[:40], "must be an object with image and args")
        fields: dict[str, object] = dict(value)
        if "image" not in fields:
            raise SpecError("image", "", "is missing")
        for field in fields:
            if field not in _OWN and field not in Container.__annotations__:
                raise SpecError(field, "", "no such field", "those of Job and of pybox.run: " + " ".join(_OWN))
        try:
            return cls(**fields)  # type: ignore[arg-type]  # checked above and by what it calls
        except (TypeError, AttributeError, ValueError) as error:
            raise SpecError("job", "", f"a field is of the wrong type: {error}") from None

    def key(self) -> str:
        """Return what tells this job from others: a digest of all that it is."""
        from hashlib import sha256

        return sha256(fastjson.dumps(self.to_json()).encode()).hexdigest()[:16]

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Job.from_json, (self.to_json(),)


_OWN = ("image", "args", "name", "timeout", "input", "retries")


def _plain(option: str, value: object) -> Json:
    """Return an option's value as JSON can hold it. Raises SpecError."""
    if isinstance(value, Mount):
        return to_json(value)
    if isinstance(value, Rlimit):
        return f"{value.name}={value.soft}:{value.hard}"
    if hasattr(value, "items"):
        return {str(key): _plain(option, entry) for key, entry in value.items()}
    if value is None or isinstance(value, (str, int, float)):
        return value
    if hasattr(value, "__iter__"):
        return tuple(_plain(option, entry) for entry in value)
    raise SpecError(option, repr(value), "can't be written down as JSON")
