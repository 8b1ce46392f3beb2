"""Result: what happened to a job, and what it cost. The same names in Python and in the JSON of --status-file."""

from __future__ import annotations

from pybox.errors import PyboxError
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from pybox.fastjson import Json

    Reason = Literal["exit", "signal", "timeout", "oom", "cancelled", "launch-failed", "lost", "skipped"]


PAIRS = ("limit_hits", "effective", "stall")  # fields that JSON has as objects


class Result(Record):
    """How a container ended. ``reason`` tells apart what exit status 137 alone does not.

    exit           the command ended by itself: ``exit_code``
    signal         a signal ended it: ``signal``
    timeout        pybox killed the whole container when its time was over
    oom            the kernel killed it at its memory limit
    cancelled      it was given up by who had asked for it, and killed
    launch-failed  it never ran (only in the JSON of --status-file; Python raises)
    lost           nobody saw its end: what looked after it was killed (only in the record of a kept container)
    skipped        it never ran: what it needs has not ended well (only in a batch)
    """

    id: str
    image: str
    args: tuple[str, ...]
    reason: Reason
    exit_code: int  # the command's own, or 128 + signal, or 125-127 when it never ran
    signal: int | None = None
    stdout: bytes | None = None  # None when not captured
    stderr: bytes | None = None
    wall: float = 0.0  # seconds from the clone to the end
    ended: float | None = None  # seconds since the epoch
    cpu_user: float = 0.0  # seconds, all processes
    cpu_system: float = 0.0
    memory_peak: int | None = None  # bytes: of the container with a memory limit, else of its largest process
    limit_hits: tuple[tuple[str, int], ...] = ()  # (memory, pids or cpu; how often)
    io_read: int | None = None  # bytes from block devices, by all processes; what the page cache had is free
    io_written: int | None = None
    pids_peak: int | None = None  # processes and threads at once; None without a group that counted them
    stall: tuple[tuple[str, float], ...] = ()  # (cpu, memory or io; seconds that some process waited for it): PSI, see bill.py
    image_id: str = ""  # sha256:..., which the name may not mean any more; "host"
    effective: tuple[tuple[str, str], ...] = ()  # (limit asked for, what enforced it)
    error: str | None = None  # why it never ran
    index: int | None = None  # of many: which one, from 0
    name: str = ""  # the job's
    attempts: int = 1  # how often it was run until this
    error_code: str = ""  # of why it never ran: what `pybox why` takes

    @property
    def ok(self) -> bool:
        """Whether the command ran and said 0."""
        return self.reason == "exit" and self.exit_code == 0

    def check(self) -> Result:
        """Return self. Raises JobError unless the command ran and said 0."""
        if not self.ok:
            raise JobError(self)
        return self

    def to_json(self) -> dict[str, Json]:
        """Return what --status-file and `pybox inspect` show; captured output is not in it."""
        plain: dict[str, Json] = {"schema": "pybox.result/1"}
        for name, value in self.items():
            if name in ("stdout", "stderr"):
                continue
            plain[name] = dict(value) if name in PAIRS else value  # type: ignore[call-overload, assignment]
        return plain


def verdict(status: int, timed_out: bool, oom_kills: int) -> tuple[Reason, int, int | None]:
    """Return (reason, exit code, signal) of a wait status and what else is known of the end; wait(2)."""
    ended_by = status & 0x7F
    if timed_out:
        return "timeout", 137, 9
    if not ended_by:
        return "exit", status >> 8, None
    return ("oom" if oom_kills and ended_by == 9 else "signal"), 128 + ended_by, ended_by


def never_ran(image: str, args: tuple[str, ...], error: BaseException, identity: str = "") -> Result:
    """Return the result of what could not be started."""
    known = error if isinstance(error, PyboxError) else PyboxError(str(error))
    return Result(identity, image, args, "launch-failed", known.exit_code, error=known.message, error_code=known.code)


class JobError(PyboxError):
    """A command ended with something else than 0; ``result`` says with what. What subprocess calls CalledProcessError."""

    code = "E-JOB"

    def __init__(self, result: Result) -> None:
        how = {
            "exit": f"exit status {result.exit_code}",
            "signal": f"signal {result.signal}",
            "timeout": "time-out",
            "oom": "out of memory",
        }
        super().__init__(f"{' '.join(result.args)}: {how.get(result.reason, result.reason)}")
        self.result = result
