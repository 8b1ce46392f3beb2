"""pybox: containers that start in milliseconds, from a shell or from Python.

    import pybox
    result = pybox.run("busybox", ["echo", "hello"], memory="64M", timeout=5)
    result.stdout, result.wall, result.memory_peak

Importing this package imports nothing else; the first use of a name does.
"""

from __future__ import annotations

from pybox.version import VERSION as __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox import aio as aio
    from pybox.api import run
    from pybox.containerfile.api import build
    from pybox.containerfile.errors import BuildError, ContainerfileError, RunFailed
    from pybox.errors import ImageError, ImageNotFound, LimitError, PyboxError, SpecError, StateError
    from pybox.executor.errors import CallTimeout, OutOfMemory, RemoteError, WorkerDied, WorkerFailed
    from pybox.executor.executor import Executor
    from pybox.failures import ExecError, ProgramNotFound, StepFailed
    from pybox.jobs.job import Job
    from pybox.jobs.many import run_many
    from pybox.process import Process, popen
    from pybox.registry.api import pull, push
    from pybox.registry.client import Refused
    from pybox.registry.wire import Unreachable
    from pybox.result import JobError, Result
    from pybox.supervise import DEVNULL, PIPE, STDOUT

_HOMES = {
    "run": "api",
    "build": "containerfile.api",
    "BuildError": "containerfile.errors",
    "ContainerfileError": "containerfile.errors",
    "RunFailed": "containerfile.errors",
    "popen": "process",
    "Process": "process",
    "PIPE": "supervise",
    "STDOUT": "supervise",
    "DEVNULL": "supervise",
    "aio": "aio",
    "Job": "jobs.job",
    "run_many": "jobs.many",
    "Executor": "executor.executor",
    "CallTimeout": "executor.errors",
    "OutOfMemory": "executor.errors",
    "RemoteError": "executor.errors",
    "WorkerDied": "executor.errors",
    "WorkerFailed": "executor.errors",
    "Result": "result",
    "JobError": "result",
    "PyboxError": "errors",
    "SpecError": "errors",
    "ImageError": "errors",
    "ImageNotFound": "errors",
    "LimitError": "errors",
    "StateError": "errors",
    "StepFailed": "failures",
    "ExecError": "failures",
    "ProgramNotFound": "failures",
    "pull": "registry.api",
    "push": "registry.api",
    "Refused": "registry.client",
    "Unreachable": "registry.wire",
}

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "BuildError",
    "CallTimeout",
    "ContainerfileError",
    "ExecError",
    "Executor",
    "ImageError",
    "ImageNotFound",
    "Job",
    "JobError",
    "LimitError",
    "OutOfMemory",
    "Process",
    "ProgramNotFound",
    "PyboxError",
    "Refused",
    "RemoteError",
    "Result",
    "RunFailed",
    "SpecError",
    "StateError",
    "StepFailed",
    "Unreachable",
    "WorkerDied",
    "WorkerFailed",
    "__version__",
    "aio",
    "build",
    "popen",
    "pull",
    "push",
    "run",
    "run_many",
]


def __getattr__(name: str) -> object:
    """Import a public name at its first use; PEP 562."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pybox' has no attribute {name!r}")
    import sys

    module = f"pybox.{_HOMES[name]}"
    __import__(module)
    if name == "aio":
        return sys.modules[module]
    value = getattr(sys.modules[module], name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
