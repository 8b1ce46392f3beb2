"""The ledger of a batch: a directory with one line of JSON for each finished job, written before anybody hears of it.

    results.jsonl    {"key": ..., result...} a line; appended by one write each, so what a kill -9 cuts is at most the last line
    INDEX.stdout, INDEX.stderr

The key is a digest of the job: a line whose key is another's says that the directory belongs to another batch.
"""

from __future__ import annotations

import os
from errno import ENOSPC
from fcntl import LOCK_EX, LOCK_NB, flock
from time import sleep

from pybox import fastjson
from pybox.errors import SpecError, StateError
from pybox.jobs.job import Job
from pybox.result import PAIRS, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.fastjson import Json


_TRIES = 100


class Ledger:
    """The results of one batch on disk."""

    def __init__(self, path: str, resume: bool) -> None:
        """Open or make the directory. Raises SpecError when it is not usable, StateError when it is in use or not empty."""
        self.path = path
        try:
            os.makedirs(path, exist_ok=True)
            self._fd = os.open(f"{path}/results.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise SpecError("out", path, str(error.strerror)) from None
        try:
            self._lock()
            self._known = self._read()
            if self._known and not resume:
                raise StateError(
                    f"{path} holds results already", "resume=True (--resume) goes on with them; or choose another directory"
                )
        except BaseException:
            os.close(self._fd)
            raise

    def _lock(self) -> None:
        """Take the lock of the directory, which a child of a killed batch may hold for a moment. Raises StateError."""
        for _ in range(_TRIES + 1):
            try:
                flock(self._fd, LOCK_EX | LOCK_NB)
                return
            except BlockingIOError:
                sleep(0.02)
        raise StateError(f"{self.path} is in use by another batch")

    def _read(self) -> dict[int, dict[str, Json]]:
        """Return the last line of each job."""
        return dict(self.whole_lines())

    def whole_lines(self) -> Iterator[tuple[int, dict[str, Json]]]:
        """Yield (index, line) of what is written; a line that was cut off by the death of its writer is cut away at the end."""
        good = 0
        with open(self._fd, "rb", closefd=False) as file:
            for line in file:
                try:
                    row = fastjson.loads(line.decode())
                except ValueError:
                    break
                if not line.endswith(b"\n") or not isinstance(row, dict) or not isinstance(row.get("index"), int):
                    break
                yield int(str(row["index"])), row
                good += len(line)
        os.ftruncate(self._fd, good)

    def done(self, index: int, job: Job) -> Result | None:
        """Return the result of a job that has ended with 0 before; None when it is to be run. Raises StateError for another's."""
        row = self._known.pop(index, None)
        if row is None:
            return None
        if row.get("key") != job.key():
            raise StateError(f"{self.path} belongs to another batch: its job {index} is another", "choose another directory")
        return None if row.get("reason") != "exit" or row.get("exit_code") != 0 else self._result(index, job, row)

    def _result(self, index: int, job: Job, row: dict[str, Json]) -> Result:
        fields: dict[str, object] = {name: row[name] for name in row if name not in ("schema", "key")}
        for name in PAIRS:
            value = row.get(name)
            fields[name] = tuple(value.items()) if isinstance(value, dict) else ()
        fields["args"] = job.args
        for stream in ("stdout", "stderr"):
            fields[stream] = _read_file(f"{self.path}/{index}.{stream}")
        return Result.of(fields)

    def note(self, job: Job, result: Result) -> None:
        """Write a result down: its output first, so that a line in the ledger means that all of it is there."""
        for stream, data in (("stdout", result.stdout), ("stderr", result.stderr)):
            if data is not None:
                with open(f"{self.path}/{result.index}.{stream}", "wb") as file:
                    file.write(data)
        line = fastjson.dumps({"key": job.key(), **result.to_json()}).encode() + b"\n"
        if os.write(self._fd, line) != len(line):  # a line that is cut must be the last one, or those behind it are lost
            raise OSError(ENOSPC, os.strerror(ENOSPC), self.path)

    def close(self) -> None:
        """Let go of the directory."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _read_file(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
