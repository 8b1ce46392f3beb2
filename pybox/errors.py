"""What can go wrong, as types; and the exit status each gives the command line.

    PyboxError                      125   pybox itself could not do it
      SpecError                     125   what was asked for makes no sense; nothing was created
      ImageError                    125   an image or archive is not usable
        ImageNotFound               125   no such image in the store
        Refused                     125   a registry said no (registry/client.py)
        Unreachable                 125   a registry can't be talked to (registry/wire.py)
      LimitError                    125   a limit can't be enforced on this host
      StateError                    125   a container's record is missing, ambiguous or busy
      StepFailed                    125   one step of the plan failed in the kernel
      ExecError                     126   the command can't be executed
        ProgramNotFound             127   the command does not exist

Messages are lower case without a full stop: what, why; the hint says what to try. Raised where it failed, shown once at the
edge (cli/), never logged on the way. The codes, and the causes with the probes that confirm them, are in codes.py.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.steps.base import Step


class PyboxError(Exception):
    """Any failure of pybox's own. ``hint`` says what to try; ``exit_code`` is the command line's status.

    ``code`` is stable, and what `pybox why` takes (codes.py). A failed launch knows its ``step`` and ``errno``, and the
    ``causes`` that probed true.
    """

    exit_code = 125
    code = "E-PYBOX"
    step: Step | None = None
    errno: int = 0
    causes: tuple[str, ...] = ()

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def fix(self) -> str | None:
        """What to try: the hint."""
        return self.hint

    def reworded(self, message: str) -> None:
        """Say it in other words. What kind it is, and what it knows beside its words, stays."""
        self.args, self.message = (message,), message

    def __reduce__(self) -> tuple[object, ...]:  # survives a process pool, whatever __init__ a subclass has
        return Exception.__new__, (type(self), self.message), self.__dict__


class SpecError(PyboxError):
    """What was asked for makes no sense: names the field, the value (if there is one) and the reason."""

    code = "E-SPEC"

    def __init__(self, field: str, value: object, reason: str, hint: str | None = None) -> None:
        super().__init__(f"{field}: {reason}" if value == "" else f"{field}: {value!r}: {reason}", hint)
        self.field = field
        self.value = value
        self.reason = reason


class ImageError(PyboxError):
    """An image or archive is not usable. ``passes``: it may be, a moment later."""

    code = "E-IMAGE"
    passes = False


class ImageNotFound(ImageError):
    """No image of that name in the store."""

    code = "E-IMAGE-ABSENT"


class LimitError(PyboxError):
    """A resource limit can't be enforced here, so the run is refused (``--best-effort`` runs without it and says so)."""

    code = "E-LIMIT"


class StateError(PyboxError):
    """A container's record is missing, ambiguous or busy."""

    code = "E-STATE"
