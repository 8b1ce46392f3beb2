"""The directory of a batch, and what stands in for it without ``-o``: where results are written, and read again.

    batch.json       which batch this is: the digest of its jobs
    results.jsonl    a Result in each line, as the ledger of run_many writes them; the last line of a job counts
    INDEX.stdout, INDEX.stderr    what a job wrote; it writes there itself, so it can be watched, and costs pybox no memory

A line is written by one write(2) when its job has ended, before anybody hears of it. Then it is the kernel's, and no kill -9 of
pybox takes it back. Against a failing machine the file is synced every few seconds by a thread of its own and at the end: that
loses the last seconds, whose jobs run again. The output of jobs is not synced: at hundreds of jobs a second that is all the disk
would do.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from threading import Event, Thread
from time import time

from pybox import fastjson
from pybox.batch.plan import Batch
from pybox.errors import SpecError, StateError
from pybox.jobs.job import Job
from pybox.jobs.ledger import Ledger
from pybox.result import Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pybox.fastjson import Json

_SYNC = 5.0  # seconds
_TAIL = 4096  # bytes of stderr in which the last line is looked for
_WELL, _NOT = 1, 2


class Results(Ledger):
    """Results of a batch in a file of their own that has no name: without -o, output is handed on when a job has ended."""

    def __init__(self, hand_on: Callable[[Result], None]) -> None:
        self._hand_on = hand_on
        with tempfile.TemporaryFile() as file:
            self._fd = os.dup(file.fileno())
        self.path = ""
        self.known = bytearray()
        self._last = 0, array("Q")

    def done(self, index: int, job: Job) -> Result | None:
        """Return None: who asks has sorted out what is done."""
        return None

    def well(self, index: int) -> bool:
        """Return whether a job has ended well before."""
        return index < len(self.known) and self.known[index] == _WELL

    def open(self, index: int) -> tuple[int, int] | None:
        """Return fds for the output of a job, None: capture it. They are the caller's to close."""
        return None

    def note(self, job: Job, result: Result) -> None:
        """Write a result down, and hand on its output."""
        self._hand_on(result)
        row: dict[str, Json] = {**result.to_json(), "last_words": last_line(result.stderr or b"")}
        os.write(self._fd, fastjson.dumps(row).encode() + b"\n")

    def rows(self) -> Iterator[dict[str, Json]]:
        """Yield the last line of each job, in the order in which they were written."""
        last = self._last_lines()
        for number, row in enumerate(self._rows()):
            if last[int(str(row["index"]))] == number:
                yield row

    def _last_lines(self) -> array[int]:
        """Return the number of the last line of each job, found out again only when lines were added."""
        size = os.fstat(self._fd).st_size
        if size != self._last[0]:
            last = array("Q")
            for number, row in enumerate(self._rows()):
                index = int(str(row["index"]))
                if index >= len(last):
                    last.frombytes(bytes(8 * (index + 1 - len(last))))
                last[index] = number
            self._last = size, last
        return self._last[1]

    def _rows(self) -> Iterator[dict[str, Json]]:
        with open(f"/proc/self/fd/{self._fd}", "rb") as file:  # an open file of its own, with its own place in it
            for line in file:
                row = fastjson.loads(line.decode())
                if isinstance(row, dict):
                    yield row

    def close(self) -> None:
        """Do nothing: run_numbered has written all that it will, but the results are still to be read."""

    def release(self) -> None:
        """Let go of it."""
        Ledger.close(self)

    def last_words(self, row: dict[str, Json]) -> str:
        """Return the last line that a job wrote to stderr."""
        return str(row.get("last_words") or "")


class Directory(Results):
    """The directory of a batch, locked while it is open."""

    def __init__(self, path: str, batch: Batch, resume: bool) -> None:
        """Open or make it. Raises SpecError when it is not usable, StateError when it is another's, in use, or not to be resumed."""
        self.path = path
        self._last = 0, array("Q")
        self._identity: dict[str, Json] = {"schema": "pybox.batch/1", "batch": batch.digest, "jobs": batch.count}
        other = StateError(f"{path} holds something else than the results of a batch", "-o must be a new directory")
        try:
            os.makedirs(path, exist_ok=True)
            names = set(os.listdir(path))
            begun = "batch.json" in names
            if begun:
                self._identify(batch, resume)
            elif names - {".batch.json", "results.jsonl"}:  # these a batch leaves that was killed before it had begun
                raise other
            self._fd = os.open(f"{path}/results.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise SpecError("output", path, str(error.strerror)) from None
        try:
            self._lock()
            if not begun and os.fstat(self._fd).st_size:
                raise other
            if not begun:
                self._begin(batch)
            self.known = bytearray(batch.count)
            self._learn()
        except BaseException:
            os.close(self._fd)
            raise
        self._over = Event()
        self._syncer = Thread(target=self._sync, name="pybox-batch-sync", daemon=True)
        self._syncer.start()

    def _identify(self, batch: Batch, resume: bool) -> None:
        try:
            with open(f"{self.path}/batch.json", "rb") as file:
                found = fastjson.loads(file.read().decode())
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.get("batch") != batch.digest:
            raise StateError(
                f"{self.path} belongs to another batch", "choose another directory: the jobs of a batch can't change"
            )
        if not resume:
            raise StateError(f"{self.path} holds results of this batch already", "--resume goes on with them")

    def _begin(self, batch: Batch) -> None:
        whole: dict[str, Json] = {**self._identity, "file": batch.source.name, "created": time()}
        with open(f"{self.path}/.batch.json", "w") as file:
            file.write(fastjson.dumps(whole) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{self.path}/.batch.json", f"{self.path}/batch.json")

    def _learn(self) -> None:
        """Learn which jobs have ended well."""
        for index, row in self.whole_lines():
            if not 0 <= index < len(self.known):
                raise StateError(
                    f"{self.path}/results.jsonl has a job {index}, which this batch has not", "choose another directory"
                )
            self.known[index] = _WELL if row.get("reason") == "exit" and row.get("exit_code") == 0 else _NOT

    def before(self) -> tuple[int, int, int]:
        """Return how many jobs had ended well, had ended otherwise, and had not ended, when it was opened."""
        return self.known.count(_WELL), self.known.count(_NOT), self.known.count(0)

    def open(self, index: int) -> tuple[int, int] | None:
        """Return fds for the output of a job, emptied: what an earlier attempt wrote is gone."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        stdout = os.open(f"{self.path}/{index}.stdout", flags, 0o644)
        try:
            return stdout, os.open(f"{self.path}/{index}.stderr", flags, 0o644)
        except BaseException:
            os.close(stdout)
            raise

    def note(self, job: Job, result: Result) -> None:
        """Write a result down."""
        Ledger.note(self, job, result)

    def last_words(self, row: dict[str, Json]) -> str:
        """Return the last line that a job wrote to stderr."""
        try:
            with open(f"{self.path}/{row['index']}.stderr", "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
                return last_line(file.read())
        except OSError:
            return ""

    def _sync(self) -> None:
        while not self._over.wait(_SYNC):
            os.fdatasync(self._fd)

    def release(self) -> None:
        """Let go of the directory when all results are on the disk."""
        self._over.set()
        self._syncer.join()
        os.fdatasync(self._fd)
        Ledger.close(self)


def last_line(data: bytes) -> str:
    """Return the last line with something in it."""
    lines = data[-_TAIL:].decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
