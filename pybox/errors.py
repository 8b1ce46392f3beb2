"""What can go wrong, as types; and the exit status each gives the command line.

    PyboxError                      125   pybox itself could not do it
      SpecError                     125   what was asked for makes no sense; nothing was created
      ImageError                    125   an image or archive is not usable
        ImageNotFound               125   no such image in the store
      LimitError                    125   a limit can't be enforced on this host
      StateError                    125   a container's record is missing, ambiguous or busy
      StepFailed                    125   one step of the plan failed in the kernel
      ExecError                     126   the command can't be executed
        ProgramNotFound             127   the command does not exist

Messages are lower case without a full stop: what, why; the hint says what to try. Raised where it failed, shown once at the
edge (cli/), never logged on the way. The causes of a failed step, each with the probe that confirms it, are in failures.py.
"""

from __future__ import annotations


class PyboxError(Exception):
    """Any failure of pybox's own. ``hint`` says what to try; ``exit_code`` is the command line's status."""

    exit_code = 125

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:  # survives a process pool, whatever __init__ a subclass has
        return Exception.__new__, (type(self), self.message), self.__dict__


class SpecError(PyboxError):
    """What was asked for makes no sense: names the field, the value (if there is one) and the reason."""

    def __init__(self, field: str, value: object, reason: str, hint: str | None = None) -> None:
        super().__init__(f"{field}: {reason}" if value == "" else f"{field}: {value!r}: {reason}", hint)
        self.field = field
        self.value = value
        self.reason = reason


class ImageError(PyboxError):
    """An image or archive is not usable."""


class ImageNotFound(ImageError):
    """No image of that name in the store."""


class LimitError(PyboxError):
    """A resource limit can't be enforced here, so the run is refused (``--best-effort`` runs without it and says so)."""


class StateError(PyboxError):
    """A container's record is missing, ambiguous or busy."""
