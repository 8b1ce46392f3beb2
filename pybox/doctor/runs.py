"""Doctor on pybox itself: the extension, pybox-init, and real runs through the same Runtime as `pybox run`."""

from __future__ import annotations

import os
import shutil

from pybox import native
from pybox.dirs import Dirs
from pybox.doctor.files import not_tried
from pybox.doctor.item import Item
from pybox.doctor.session import Host
from pybox.doctor.trial import Outcome, attempt
from pybox.errors import PyboxError
from pybox.image.importing import import_
from pybox.record import Record
from pybox.runtime import Options, Runtime
from pybox.spec import Limits, Mount, Spec
from pybox.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

_LIBRARIES = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "nix", "gnu")  # where programs and what they load may be


def extension(host: Host) -> Item:
    """Start pybox-init as a container's process 1 is started, and let it run /bin/true."""
    path = f"{os.path.dirname(os.path.abspath(native.__file__))}/pybox-init"
    return judge_extension(attempt(lambda: _start_init(path)), path)


def _start_init(path: str) -> Json:
    size = os.stat(path).st_size
    true = shutil.which("true") or "/bin/true"
    ours, theirs = native.leash()
    pid = os.fork()
    if pid == 0:
        os.dup2(theirs, 3)  # where it expects its leash
        try:
            os.execv(path, [path, "1", true, "true"])
        except OSError as error:
            os._exit(100 + min(error.errno or 0, 100))
    os.close(theirs)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    words = []
    os.set_blocking(ours, False)
    while message := os.read(ours, 4096):
        words.append(int.from_bytes(message[:4], "little"))
    started, ended = native.number("PB_STARTED"), native.number("PB_ENDED")
    return [code, words == [started, ended], size]


def judge_extension(outcome: Outcome, path: str) -> Item:
    """Judge [exit code, whether pybox-init said what it should, its size]."""
    base = Item("extension", f"pybox {VERSION}", "ok", "loaded the C extension, ran true under pybox-init", "")
    value = outcome.value
    if isinstance(value, list) and value[:2] == [0, True]:
        return base.replace(happened=f"C extension ✓  pybox-init ✓ ({int(value[2]) // 1024} KiB)")  # type: ignore[arg-type]
    happened = outcome.words() if outcome.call else f"{path} ended with {value}"
    return base.replace(
        level="fail",
        happened=f"C extension ✓  pybox-init ✗: {happened}",
        lost="every run with pybox-init, which is the default",
        fix="pip install --force-reinstall pybox   (in a checkout: make dev)",
        blocks=("run", "rootless"),
    )


class Ran(Record):
    """How a run ended: with an error of pybox's and its hint, or with what the command saw."""

    error: str = ""
    hint: str = ""
    exit_code: int = 0
    said: str = ""  # by the command, /proc/self/status
    wall: float = 0.0  # seconds
    effective: tuple[tuple[str, str], ...] = ()


def run(host: Host) -> Item:
    """Run a command from a small image, with limits where they hold: everything together, as `pybox run` does it."""
    if not host.scratch:
        return not_tried("run", "pybox run")
    root = f"{host.scratch}/root"
    mounts = _lay_out(root)
    dirs = Dirs(f"{host.scratch}/store", host.dirs.state)
    cat = shutil.which("cat") or "/bin/cat"
    spec = Spec(
        "doctor", (cat, "/proc/self/status"), mounts=mounts, limits=Limits(memory=64 << 20, pids=32, cpus=1.0), best_effort=True
    )
    return judge_run(_run(dirs, spec, root))


def _lay_out(root: str) -> tuple[Mount, ...]:
    """Make a root of links and empty directories for the host's programs; returns what is to be mounted on it."""
    os.mkdir(root)
    mounts = []
    for name in _LIBRARIES:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif os.path.isdir(f"/{name}"):
            os.mkdir(f"{root}/{name}")
            mounts.append(Mount(f"/{name}", source=f"/{name}", read_only=True))
    return tuple(mounts)


def _run(dirs: Dirs, spec: Spec, root: str = "") -> Ran:
    try:
        runtime = Runtime(dirs)
        try:
            if root:
                import_(dirs, spec.image, root)
            result = runtime.run(spec, Options(capture=True, timeout=10))
        finally:
            for fd in runtime.reuse.values():
                os.close(fd)
    except PyboxError as error:
        return Ran(error.message, error.hint or "", error.exit_code)
    except OSError as error:
        return Ran(f"{error.filename}: {error.strerror}", exit_code=125)
    said = (result.stdout or b"") if result.ok else (result.stderr or b"")
    return Ran("", "", result.exit_code, said.decode(errors="replace"), result.wall, result.effective)


_MARKS = (("NoNewPrivs:\t1", "no new privileges"), ("Seccomp:\t2", "seccomp filter"), ("NSpid:\t2", "its own processes"))


def judge_run(ran: Ran) -> Item:
    """Judge the whole: the command must have run, and must have been confined."""
    base = Item("run", "pybox run", "ok", "ran cat in a container of a small image of the host's programs", "")
    held = [option for option, how in ran.effective if not how.startswith("none")]
    missing = [what for mark, what in _MARKS if mark not in ran.said]
    if not ran.error and ran.exit_code == 0 and not missing:
        with_ = f", with {' '.join(held)}" if held else ", without limits"
        return base.replace(happened=f"it ran for {ran.wall * 1000:.1f} ms, confined{with_}", details=ran.effective)
    happened = ran.error
    if not happened:
        happened = (
            f"the command ended with {ran.exit_code}: {ran.said.strip()[:200]}"
            if ran.exit_code
            else f"it ran without: {', '.join(missing)}"
        )
    fix = ran.hint or "mend what complains above; if nothing does, report this line and `uname -a`"
    return base.replace(level="fail", happened=happened, lost="every run", fix=fix, blocks=("run", "rootless"))


def host_image(host: Host) -> Item:
    """Run true from the image `host`."""
    if not host.scratch:
        return not_tried("host", "image `host`")
    return judge_host_image(
        _run(Dirs(f"{host.scratch}/store", host.dirs.state), Spec("host", (shutil.which("true") or "/bin/true",)))
    )


def judge_host_image(ran: Ran) -> Item:
    """Judge the run of the image `host`."""
    base = Item(
        "host", "image `host`", "ok", "ran true in a container of the machine's own root", f"it ran for {ran.wall * 1000:.1f} ms"
    )
    if not ran.error and ran.exit_code == 0:
        return base
    return base.replace(
        level="warn",
        happened=ran.error or f"true ended with {ran.exit_code}: {ran.said.strip()[:200]}",
        lost="the image `host`; imported images have their own item, `pybox doctor run`",
        fix=ran.hint or "make images && pybox run busybox id   (or as root: sudo pybox run host id)",
    )
