"""The signals that a command in the foreground passes on to the container."""

from __future__ import annotations

import posix as os
from _signal import SIG_DFL, SIG_IGN, getsignal, pidfd_send_signal, set_wakeup_fd, signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.native import Child

# Passed on to the container: what people and schedulers send. 28 is a resized terminal.
FORWARDED = {"HUP": 1, "INT": 2, "QUIT": 3, "USR1": 10, "USR2": 12, "TERM": 15, "CONT": 18, "WINCH": 28}


class Forwarder:
    """Passes signals on to the container: those that came before it ran, too.

    ``woken`` is an fd that signals write to, signal.set_wakeup_fd: one that comes between Python's last look for signals and a wait
    would else not be heard before the process ends by itself.
    """

    def __init__(self) -> None:
        self._pidfd = -1
        self.woken, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        self._early: list[int] = []
        for number in FORWARDED.values():
            if getsignal(number) != SIG_IGN:  # nohup(1) and the like: what pybox is told to ignore, the container does not hear
                signal(number, self._forward)

    def _forward(self, number: int, frame: object) -> None:
        if self._pidfd < 0:
            self._early.append(number)
            return
        try:
            pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass

    def started(self, child: Child, identity: str) -> None:
        """Begin to pass on."""
        self._pidfd = child.pidfd
        for number in self._early:
            self._forward(number, None)

    def await_end(self, pidfd: int) -> None:
        """Wait until a process has ended; it still has to be reaped."""
        from select import POLLIN, poll

        watch = poll()
        watch.register(pidfd, POLLIN)
        watch.register(self.woken, POLLIN)
        while all(fd != pidfd for fd, _ in watch.poll()):
            os.read(self.woken, 64)  # its handler has run by now

    def stop(self) -> None:
        """Give the signals their default meaning again: the fd is no longer the container's."""
        for number in FORWARDED.values():
            if getsignal(number) == self._forward:
                signal(number, SIG_DFL)
        set_wakeup_fd(-1)
        os.close(self.woken)
        os.close(self._waker)
