"""Commands, each in a container of its own, and the streams of containers: the part of the dispatcher that knows no Python inside."""

from __future__ import annotations

from collections import deque
from select import EPOLLOUT
from time import monotonic

from pybox import api, supervise
from pybox.executor.calls import Command
from pybox.executor.crew import Box
from pybox.executor.loop import Loop


class Commands(Loop):
    """A loop that runs commands."""

    def __init__(self) -> None:
        super().__init__()
        self._commands: deque[Command] = deque()
        self._running: dict[Box, Command] = {}

    def _launch(self, command: Command) -> bool:
        if command.ended or not command.begin():
            return True
        try:
            box = Box(api.shared(), command.spec, command.options)
        except Exception as error:
            command.fail(error)
            return True
        command.where = box
        self._running[box] = command
        if command.options.timeout is not None:
            box.deadline = monotonic() + command.options.timeout
        self._add(box.running.child.pidfd, lambda _: self._command_ended(box))
        self._add_readers(box)
        if box.streams.writer >= 0:
            self._add(box.streams.writer, lambda event: self._feed(box, event), EPOLLOUT)
        return True

    def _command_ended(self, box: Box) -> None:
        command = self._running.pop(box)
        self._remove(box.running.child.pidfd)
        self._remove_readers(box)
        if box.streams.writer >= 0:
            self._remove(box.streams.writer)
        try:
            result = box.settle()
            if box.error is not None:
                raise box.error
            if command.check:
                result.check()
        except Exception as error:
            command.fail(error)
            return
        command.succeed(result)

    def _kill_commands(self) -> None:
        for box, command in self._running.items():
            command.future.cancel()
            box.kill()

    def _feed(self, box: Box, event: int) -> None:
        writer = box.streams.writer
        supervise.push(box.streams, self._poll, event)
        if box.streams.writer < 0:  # it has taken all, or wants no more; push has closed it
            del self._watch[writer]

    def _read(self, box: Box, fd: int) -> None:
        try:
            if not supervise.pull(box.streams, fd):
                self._remove(fd)
        except Exception as error:  # of the caller's function, which is given the lines
            self._remove(fd)
            box.error = error
            box.kill()

    def _add_readers(self, box: Box) -> None:
        def add(fd: int) -> None:
            self._add(fd, lambda _: self._read(box, fd))

        for fd in box.streams.readers:
            add(fd)

    def _remove_readers(self, box: Box) -> None:
        for fd in box.streams.readers:
            self._remove(fd)
