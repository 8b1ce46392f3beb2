"""Error codes: what each means, and its causes, each with the probe that confirms it. Here, for steps in causes.py, and nowhere else.

    E-MOUNT-EINVAL       a step of the plan failed: its system call, and its errno (KILLED: the process was)
    E-EXEC-CRLF          the command can't be executed: the cause, which the process saw as it failed (failures.exec_cause)
    E-IMAGE-ABSENT, ...  what was asked for, by class of error (errors.py)

A launch that fails blames each cause that is about this step and whose probe comes out true; `pybox why CODE` asks the same probes
later, of the host alone, and has `pybox doctor` try the item that a cause names. A cause with neither only the launch can see.
Codes are stable: programs and notes refer to them. Nothing here is loaded by a run that succeeds.
"""

from __future__ import annotations

import errno as errnos

from pybox import probes
from pybox.causes import STEPS, Cause, Code
from pybox.probes import Case
from pybox.steps.base import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.errors import PyboxError
    from pybox.fastjson import Json


def _exec(name: str, means: str, hint: str | None = None) -> Code:
    return Code(f"E-EXEC-{name.upper()}", means, (Cause(name, means, hint),), "execve(2)")


# What the process saw as it failed. {path} is the command.
EXEC = (
    _exec("missing", "the command does not exist in the container", "pybox run IMAGE ls /bin shows what is there"),
    _exec("magic-link", "the path leads through a magic link of /proc, or in a circle"),
    _exec("closed-directory", "a directory on the way is closed to the user that the container runs as"),
    _exec("directory", "the path is a directory"),
    _exec("noexec", "the file is on a file system that is mounted noexec", "for a tmpfs: --tmpfs DST:exec"),
    _exec("not-executable", "the file has no x permission", "chmod +x {path} in the image"),
    _exec("interpreter-not-executable", "the program that the script's #! line names can't be executed"),
    _exec("permission", "the file may not be executed by this user"),
    _exec("crlf", "the script's #! line ends in CR LF, so its interpreter has a CR in its name",
          "save the script with Unix line ends (dos2unix)"),
    _exec("interpreter-missing", "the program that the script's #! line names does not exist in the container"),
    _exec("architecture", "the program is for another kind of machine"),
    _exec("loader-missing", "the program's dynamic loader does not exist in the container (the kernel says: no such file)",
          "use an image with that C library, or a static program"),
    _exec("too-many-processes", "no more processes are allowed in the container: its pids limit, or RLIMIT_NPROC, is reached",
          "raise --pids-limit (pybox-init is one of them), or --ulimit nproc=N"),
    _exec("empty", "the file is empty"),
    _exec("format", "the file is neither a program nor a script with a #! line", "put #!/bin/sh in its first line"),
    _exec("other", "the kernel's errno says it all: execve(2) lists them"),
)  # fmt: skip

CLASSES = (
    Code("E-PYBOX", "pybox could not do it; the message says why"),
    Code("E-USAGE", "a command or an option that does not exist", read="`pybox help`"),
    Code("E-SPEC", "what was asked for makes no sense; the message names the option or field; nothing was created"),
    Code(
        "E-HOST",
        "the host refused something outside of any step: the state directory, the store, a file to write",
        (
            Cause("full", "the file system of the store or of the state directory is full",
                  "`pybox system df` shows what takes it; `pybox image prune`, or PYBOX_STORE=DIR elsewhere",
                  lambda case: any(map(probes.full, (case.dirs.store, case.dirs.state)))),
            Cause("read-only", "the store or the state directory is on a read-only file system",
                  "set PYBOX_STORE and PYBOX_STATE to directories that can be written",
                  lambda case: any(map(probes.read_only, (case.dirs.store, case.dirs.state)))),
            Cause("closed", "the store or the state directory, or one above it, is closed to this user",
                  "set PYBOX_STORE and PYBOX_STATE to directories of your own",
                  lambda case: any(map(probes.closed, (case.dirs.store, case.dirs.state)))),
        ),
    ),
    Code("E-IMAGE", "an image or archive is not usable; the message says what is wrong with it", read="docs/images.md"),
    Code(
        "E-IMAGE-ABSENT",
        "there is no image of that name in the store, and it can't be pulled",
        (
            Cause("empty-store", "there is no image at all in this store",
                  "make images; or pybox pull, pybox load, pybox import", probes.no_images),
            Cause("roots-store", "root has a store of its own, whose images a plain user does not see",
                  "sudo pybox run ..., or bring the image into yours: pybox pull, pybox load", probes.root_has_images),
        ),
        "docs/images.md",
    ),
    Code(
        "E-REGISTRY",
        "a registry can't be talked to",
        (
            Cause("no-route", "this machine has no route to anywhere beyond its own networks", "ip route", probes.no_route),
            Cause("no-name-server", "this machine knows no name server", "cat /etc/resolv.conf", probes.no_name_server),
        ),
        "docs/images.md",
    ),
    Code("E-REGISTRY-REFUSED", "the registry answered, and the answer is no", read="docs/images.md"),
    Code(
        "E-LIMIT",
        "a limit can't be enforced on this host, so nothing was run: a limit that is silently ignored is the worst outcome",
        (
            Cause("no-limits", "the control groups of this host can't enforce every limit", item="limits"),
        ),
        "docs/limits.md",
    ),
    Code("E-STATE", "a container's record is missing, ambiguous or busy; the message says which", read="`pybox ps -a`"),
    Code("E-SUBUID", "the ids of /etc/subuid can't be mapped", (Cause("subuid", "newuidmap refuses the map", item="subuid"),)),
    Code(
        "E-NFT",
        "nftables refused the rules of a network; nothing of them was done",
        (
            Cause("no-nftables", "this kernel has no nftables, or pybox may not use it here",
                  "as root: modprobe nf_tables; in a container: --cap-add NET_ADMIN", probes.no_nftables),
        ),
        "docs/network.md",
    ),
    Code("E-BUILD", "an instruction of a Containerfile could not be done; the message has its line", read="docs/build.md"),
    Code("E-BUILD-FILE", "a Containerfile makes no sense, or asks for what is not supported; nothing was run", read="docs/build.md"),
    Code("E-BUILD-RUN", "a RUN ended with a failure; .status and .output say which", read="docs/build.md"),
    Code("E-JOB", "a command ended with something else than 0; .result says with what", read="docs/batch.md"),
    Code("E-WORKER", "no worker of an Executor can be had", read="docs/executor.md"),
    Code("E-WORKER-DIED", "a worker of an Executor ended during a call: a crash or a kill", read="docs/executor.md"),
    Code("E-WORKER-TIMEOUT", "a call took longer than the Executor's timeout", read="docs/executor.md"),
    Code("E-WORKER-OOM", "the kernel killed a worker at its memory limit", read="docs/executor.md"),
    Code("E-WORKER-REMOTE", "an exception came back from a worker as text only", read="docs/executor.md"),
)  # fmt: skip

CODES = {code.name: code for code in (*STEPS, *EXEC, *CLASSES)}


def of_step(call: str, errno: int) -> str:
    """Return the code of a step whose system call failed; errno 0: its process was killed."""
    word = errnos.errorcode.get(errno, str(errno)) if errno else "KILLED"
    return f"E-{call.upper()}-{word}"


def of_exec(cause: str) -> str:
    """Return the code of one of the causes of a failed exec."""
    return f"E-EXEC-{cause.upper()}"


def blamed(code: str, step: Step, case: Case) -> tuple[Cause, ...]:
    """Return the causes of a failed step that are about it and probe true."""
    found = CODES.get(code)
    causes = found.causes if found else ()
    return tuple(cause for cause in causes if cause.about(step) and (cause.probe is None or cause.probe(case)))


def tells_more(code: str) -> bool:
    """Whether `pybox why` has something to say that the error's own line has not."""
    found = CODES.get(code)
    return found is None or bool(found.causes)


def to_json(error: PyboxError) -> dict[str, Json]:
    """Return an error as `--format json` shows it."""
    return {
        "schema": "pybox.error/1",
        "code": error.code,
        "message": error.message,
        "step": error.step.describe() if error.step is not None else None,
        "call": error.step.call if error.step is not None else None,
        "errno": error.errno or None,
        "causes": list(error.causes),
        "fix": error.fix,
        "exit_code": error.exit_code,
    }
