"""A run in the foreground: the signals that it passes on, and what it says at its end."""

from __future__ import annotations

import os
from _signal import SIG_DFL, SIG_IGN, getsignal, pidfd_send_signal, set_wakeup_fd, signal

from pybox import build, plans, state
from pybox.dirs import Dirs
from pybox.runtime import Options, Runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.native import Child
    from pybox.ready import Ready
    from pybox.result import Result

# Passed on to the container: what people and schedulers send. 28 is a resized terminal.
FORWARDED = {"HUP": 1, "INT": 2, "QUIT": 3, "USR1": 10, "USR2": 12, "TERM": 15, "CONT": 18, "WINCH": 28}


class Forwarder:
    """Passes signals on to the container: those that came before it ran, too."""

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

    def stop(self) -> None:
        """Give the signals their default meaning again: the fd is no longer the container's."""
        for number in FORWARDED.values():
            if getsignal(number) == self._forward:
                signal(number, SIG_DFL)
        set_wakeup_fd(-1)
        os.close(self.woken)
        os.close(self._waker)


def run_again(where: Dirs, words: list[str]) -> int | None:
    """Run what was typed before, and is what it was; returns the exit status. None when it has to be planned."""
    if not build.ID:
        return None
    known = plans.recall(where, words)
    if known is None:
        return None
    runtime = Runtime(where)
    ready = known.revive(runtime.facts)
    if ready is None:
        return None
    typed = known.typed
    options = Options(timeout=typed.timeout, keep=typed.keep, name=typed.name)
    return tell(launch(runtime, ready, options, Forwarder()), typed.memory)


def launch(runtime: Runtime, ready: Ready, options: Options, forwarder: Forwarder) -> Result:
    """Run a container to its end; signals are passed on."""
    try:
        sweep(runtime)
        return runtime.launch(ready, options.replace(woken=forwarder.woken), forwarder.started)
    finally:
        forwarder.stop()


def tell(result: Result, memory: int | None) -> int:
    """Say what is worth saying of an end; returns the exit status for the shell. ``memory``: the limit in bytes."""
    lines = [f"pybox: {option} is not enforced: {how}" for option, how in result.effective if how.startswith("none")]
    if result.reason == "oom":
        lines.append(f"pybox: out of memory: killed at its limit of {memory} bytes")
    elif result.reason == "timeout":
        lines.append("pybox: time-out: container killed")
    for line in lines:
        os.write(2, f"{line}\n".encode())
    return result.exit_code


def sweep(runtime: Runtime) -> None:
    """Clean up after killed pyboxes; what can't be cleaned up is a warning."""
    try:
        for line in state.sweep(runtime.dirs):
            if state.STUCK in line:
                os.write(2, f"pybox: warning: {line}\n".encode())
    except OSError as error:
        os.write(2, f"pybox: warning: cannot clean up after a killed pybox: {error}\n".encode())
