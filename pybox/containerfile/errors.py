"""What can go wrong in a build, as types. Each names the file and the line, so that an editor can jump there."""

from __future__ import annotations

from pybox.errors import PyboxError


class BuildError(PyboxError):
    """An instruction could not be done; the store is as it was, but for what the build cache has learned."""

    code = "E-BUILD"

    def __init__(self, file: str, line: int, reason: str, hint: str | None = None) -> None:
        super().__init__(f"{file}:{line}: {reason}" if line else f"{file}: {reason}", hint)
        self.file = file
        self.line = line  # from 1; 0 when it is about the file as a whole
        self.reason = reason


class ContainerfileError(BuildError):
    """The Containerfile makes no sense, or asks for what pybox does not do. Nothing was run."""

    code = "E-BUILD-FILE"


class RunFailed(BuildError):
    """A RUN ended with a failure. ``status`` is its exit status, ``output`` the end of what it wrote, both streams."""

    code = "E-BUILD-RUN"

    def __init__(self, file: str, line: int, reason: str, status: int, output: bytes) -> None:
        super().__init__(file, line, reason)
        self.status = self.exit_code = status
        self.output = output
