"""The command: its streams, its words, its environment, and the exec that ends the plan. execve(2)"""

from __future__ import annotations

from pybox.errors import SpecError
from pybox.kernel.inputs import Inputs
from pybox.steps.base import ChildStep
from pybox.steps.process import BecomeInit, CheckLeash, CloseFds, DieWithParent, Exec, PlaceFd, SetUmask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # what docker and podman set


def words(given: Inputs) -> tuple[str, ...]:
    """Return the command: entrypoint and arguments, the image's where none were given. Raises SpecError when there is none."""
    spec, config = given.spec, given.image.config
    entrypoint = config.entrypoint if spec.entrypoint is None else spec.entrypoint
    # as docker: a new entrypoint does not get the image's old arguments
    args = spec.args or (config.cmd if spec.entrypoint is None else ())
    found = (*entrypoint, *args)
    if not found:
        raise SpecError(
            "args", "", f"no command given, and image {given.image.name} has none", "pybox run IMAGE COMMAND [ARG...]"
        )
    if not found[0]:
        raise SpecError("args", "", "the command is an empty string")
    return found


def environment(given: Inputs) -> tuple[str, ...]:
    """Return the variables, HOSTNAME first: pybox's, then the image's, then the user's; the last one of a name wins."""
    spec = given.spec
    found = {
        "HOSTNAME": spec.hostname or ("CONTAINER-ID" if spec.uts == "private" else ""),
        "PATH": PATH,
        "HOME": given.account.home,
    }
    if not found["HOSTNAME"]:
        del found["HOSTNAME"]
    for entry in given.image.config.env:
        name, _, value = entry.partition("=")
        found[name] = value
    if spec.tty:
        found.setdefault("TERM", "xterm")
    found.update(spec.env)
    return tuple(f"{name}={value}" for name, value in found.items())


def candidates(name: str, env: tuple[str, ...]) -> tuple[str, ...]:
    """Return the paths to try for a program's name, as execvp(3) does along the container's PATH."""
    if "/" in name:
        return (name,)
    path = next((entry[5:] for entry in env if entry.startswith("PATH=")), "") or PATH
    return tuple(f"{directory or '.'}/{name}" for directory in path.split(":"))


def steps(given: Inputs) -> Iterator[ChildStep]:
    """Yield the streams and the leash; after them no fd of the host's is left."""
    yield from streams(given.spec.tty, control=not (given.spec.init or given.spec.system))
    yield SetUmask(given.spec.umask)
    # in the host's PID namespace the kernel does not end the others with process 1: pybox-init must live to do it
    killer = given.spec.init and given.spec.pid == "host"
    if not killer:
        yield DieWithParent()
    yield CheckLeash()
    if given.spec.init:
        yield PlaceFd("leash", 3)
        yield PlaceFd("program", 4, until_exec=True)
    if killer:
        yield PlaceFd("cgroup.kill", 5)
    yield CloseFds(6 if killer else 5 if given.spec.init else 3)


def streams(tty: bool, *, control: bool) -> Iterator[ChildStep]:
    """Yield the placing of stdin, stdout and stderr: three of the caller's, or one terminal.

    ``control``: make it the session's. pybox-init does that by itself, and the init of a system container opens the terminal for
    whom it starts, and must not be hung up by it.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        yield PlaceFd("terminal" if tty else name, fd)
    if tty and control:
        from pybox.steps.terminal import ControlTerminal

        yield ControlTerminal()


def last_steps(given: Inputs, how: str = "") -> Iterator[ChildStep]:
    """Yield the exec, through pybox-init or not; ``how``: see BecomeInit."""
    args, env = words(given), environment(given)
    paths = candidates(args[0], env)
    if given.spec.init:
        yield BecomeInit(paths, args, how=("t" if given.spec.tty else "") + how)
    said = {name for name, _ in given.spec.env} | {entry.partition("=")[0] for entry in given.image.config.env}
    named = given.spec.uts == "private" and not given.spec.hostname and "HOSTNAME" not in said
    yield Exec(paths, args, env, named)
