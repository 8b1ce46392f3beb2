"""A run in the foreground: one that was typed before, and what is said at its end."""

from __future__ import annotations

import posix as os

from pybox import bundle, plans, state
from pybox.cli.forwarding import Forwarder
from pybox.dirs import Dirs
from pybox.runtime import Options, Runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.ready import Ready
    from pybox.result import Result


def run_again(where: Dirs, words: list[str]) -> int | None:
    """Run what was typed before, and is what it was; returns the exit status. None when it has to be planned."""
    if not bundle.ID:
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
