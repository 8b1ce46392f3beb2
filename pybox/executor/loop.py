"""A thread that sleeps until something happens: epoll(7), and an eventfd(2) for who wants something of it."""

from __future__ import annotations

import os
from collections import deque
from select import EPOLLIN, epoll
from threading import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.executor.calls import Task


class Loop:
    """What a loop needs, whatever it does. `submit`, `post` and `close` are for other threads, everything else for its own."""

    def __init__(self) -> None:
        self._inbox: deque[tuple[str, Task | None]] = deque()
        self._asleep = self._shut = False
        self._lock = RLock()  # reentrant: what the garbage collector calls may close an Executor at any moment
        self._owner = os.getpid()
        self._watch: dict[int, Callable[[int], None]] = {}
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = epoll()
        self._add(self._bell, lambda _: void(os.eventfd_read(self._bell)))

    def submit(self, what: str, task: Task) -> None:
        """Post a task. Raises RuntimeError when no more are taken."""
        if self._owner != os.getpid():
            raise RuntimeError("this Executor belongs to the process that this one was forked from: make one here")
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self.post(what, task)

    def close(self, *how: str) -> bool:
        """Take no more tasks, and say what to do with those that are there. False: in a fork, which has no say in it."""
        if self._owner != os.getpid():
            return False
        with self._lock:
            self._shut = True
            for word in how:
                self.post(word)
        return True

    def cancel(self, task: Task) -> None:
        """Have a task end whose future was cancelled."""
        self.post("cancel", task)

    def post(self, what: str, task: Task | None = None) -> None:
        """Have something done."""
        self._inbox.append((what, task))
        if self._asleep:  # set before the inbox is looked at for the last time: nothing is overslept
            self._asleep = False
            try:
                os.eventfd_write(self._bell, 1)
            except OSError:  # the loop has ended
                pass

    def _sleep(self, seconds: float | None) -> None:
        """Wait for events, and serve them."""
        self._asleep = True
        events = self._poll.poll(0 if self._inbox else seconds)
        self._asleep = False
        for fd, event in events:
            serve = self._watch.get(fd)
            if serve is not None:  # else an event before this one has closed it
                serve(event)

    def _add(self, fd: int, serve: Callable[[int], None], events: int = EPOLLIN) -> None:
        self._watch[fd] = serve
        self._poll.register(fd, events)

    def _remove(self, fd: int) -> None:
        if self._watch.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _close_loop(self) -> None:
        with self._lock:
            self._shut = True
        self._poll.close()
        bell, self._bell = self._bell, -1
        os.close(bell)


def void(_: object) -> None:
    """Forget a value."""
