"""Which seccomp program a container gets, as bytes that the launch path loads as its last act before execve.

Compiling takes milliseconds, so programs are kept in a cache directory and a run with the default profile costs one open and
one read. A cache file is used only if it belongs to the caller, nobody else may write it, and it is whole; in every other case
the program is compiled anew. The cache is a convenience: where it can't be written, nothing is, and the run goes on.

The filter loads after no_new_privs is set (or with CAP_SYS_ADMIN), see seccomp(2).
"""

from __future__ import annotations

import posix as os

from pybox.errors import PyboxError, SpecError
from pybox.paths import make_dirs
from pybox.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from pybox.kernel.bpf import Policy

MACHINES = ("x86_64", "aarch64")

# The capabilities that the default profile asks about, and a name for its present contents: written here a second time, because
# the profile itself must not be imported to find its compiled program. tests/unit/test_seccomp_profile.py holds both to the
# profile.
GATES = """
    CAP_BPF CAP_DAC_READ_SEARCH CAP_PERFMON CAP_SYSLOG CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_CHROOT CAP_SYS_MODULE CAP_SYS_NICE
    CAP_SYS_PACCT CAP_SYS_PTRACE CAP_SYS_RAWIO CAP_SYS_TIME CAP_SYS_TTY_CONFIG OWN_NAMESPACES
    """
REVISION = "2a5c9b07"

_MAGIC = b"pybox-seccomp"
_MOST = 64 << 10  # a program of 4096 instructions is 32 KiB
_MOST_PROFILE = 1 << 20


def program(cache_dir: str, profile: str | None, caps: AbstractSet[str], machine: str) -> bytes:
    """Return the program for a container with these capabilities ("CAP_..."), an array of struct sock_filter.

    ``profile`` is None for pybox's own or the path of a JSON profile; ``machine`` as in os.uname(). ``cache_dir`` is made if
    need be. Raises SpecError for a profile that is unreadable or malformed, PyboxError for a machine without a table of system
    calls.
    """
    _supported(machine)
    if profile is None:
        mask = 0
        for bit, cap in enumerate(GATES.split()):
            if cap in caps:
                mask |= 1 << bit
        key = f"default-{REVISION}-{VERSION}-{mask:x}-{machine}"
        return _cached(cache_dir, key) or _default(cache_dir, key, caps, machine)
    from hashlib import sha256

    text = _read_profile(profile)
    asked = "\0".join((REVISION, VERSION, machine, os.uname().release, *sorted(caps), text))
    key = f"profile-{sha256(asked.encode()).hexdigest()}"
    return _cached(cache_dir, key) or _custom(cache_dir, key, profile, text, caps, machine)


def explain(profile: str | None, caps: AbstractSet[str], machine: str) -> list[tuple[str, str]]:
    """Return (call name, what happens) for every system call of the machine, as in ("clone", "allow if arg0 & 0x7e020000 ==
    0x0, else EPERM").

    Raises like program().
    """
    from errno import errorcode

    from pybox.kernel import bpf
    from pybox.kernel.syscalls import numbers

    words = {bpf.ALLOW: "allow", bpf.LOG: "log", bpf.TRAP: "trap"}
    words |= {bpf.KILL_THREAD: "kill thread", bpf.KILL_PROCESS: "kill process"}

    def word(verdict: int) -> str:
        return words.get(verdict) or errorcode.get(verdict & bpf.MAX_ERRNO, f"errno {verdict & bpf.MAX_ERRNO}")

    rules = policy(profile, caps, machine)
    calls = dict(rules.calls)
    answers = []
    for name, number in numbers(machine).items():
        parts = []
        for rule in (*calls.get(number, ()), bpf.Rule(rules.default)):
            if not rule.when:
                parts.append(word(rule.verdict))
                break
            parts.append(f"{word(rule.verdict)} if {' and '.join(map(str, rule.when))}")
        answers.append((name, ", else ".join(parts)))
    return answers


def policy(profile: str | None, caps: AbstractSet[str], machine: str) -> Policy:
    """Return the rules that program() compiles. Raises like it."""
    _supported(machine)
    return _policy(profile, _read_profile(profile) if profile else "", caps, machine)


def _supported(machine: str) -> None:
    if machine not in MACHINES:
        raise PyboxError(f"no seccomp profile for {machine}", "--security-opt seccomp=unconfined runs without one")


def _policy(profile: str | None, text: str, caps: AbstractSet[str], machine: str) -> Policy:
    if profile is None:
        from pybox.kernel.seccomp_profile import policy

        return policy(caps, machine)
    from pybox.kernel.seccomp_json import Host, parse

    major, _, rest = os.uname().release.partition(".")
    minor = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return parse(profile, text, Host(caps, machine, (int(major), int(minor))))


def _default(cache_dir: str, key: str, caps: AbstractSet[str], machine: str) -> bytes:
    from pybox.kernel.bpf import assemble

    code = assemble(_policy(None, "", caps, machine), machine)
    _keep(cache_dir, key, code)
    return code


def _custom(cache_dir: str, key: str, profile: str, text: str, caps: AbstractSet[str], machine: str) -> bytes:
    from pybox.kernel.bpf import assemble

    try:
        code = assemble(_policy(profile, text, caps, machine), machine)
    except ValueError as error:
        raise SpecError("security-opt", f"seccomp={profile}", f"too many rules: {error}") from None
    _keep(cache_dir, key, code)
    return code


def _read_profile(profile: str) -> str:
    """Return the text of a profile. Raises SpecError when it can't be read."""

    def refuse(reason: str) -> SpecError:
        return SpecError("security-opt", f"seccomp={profile}", reason, "a JSON profile's path, or unconfined")

    try:
        with open(profile, "rb") as file:
            data = file.read(_MOST_PROFILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise refuse(error.strerror or str(error) if isinstance(error, OSError) else "not a path") from None
    if len(data) > _MOST_PROFILE:
        raise refuse(f"larger than {_MOST_PROFILE} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise refuse("not UTF-8") from None


def _head(key: str, code: bytes) -> bytes:
    """The first line of a cache file. The checksum guards against accidents; against other users the owner is checked."""
    from binascii import crc32

    return b"%s %s %d %08x\n" % (_MAGIC, key.encode(), len(code), crc32(code))


def _cached(cache_dir: str, key: str) -> bytes | None:
    """Return the program kept under the key, or None if there is none to be trusted."""
    try:
        fd = os.open(f"{cache_dir}/{key}.bpf", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & 0o170022 != 0o100000:
            return None
        data = os.read(fd, _MOST)
    except OSError:
        return None
    finally:
        os.close(fd)
    code = data[data.find(b"\n") + 1 :]
    return code if code and data.startswith(_head(key, code)) else None


def _keep(cache_dir: str, key: str, code: bytes) -> None:
    """Write a cache file; two writers at once both succeed, because each renames a whole file into place."""
    from threading import get_native_id

    new = f"{cache_dir}/.{key}.{os.getpid()}.{get_native_id()}"
    try:
        make_dirs(cache_dir, 0o700)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return
    try:
        whole = os.write(fd, data := _head(key, code) + code) == len(data)
    except OSError:
        whole = False
    finally:
        os.close(fd)
    try:
        if whole:
            os.rename(new, f"{cache_dir}/{key}.bpf")
            return
    except OSError:
        pass
    try:
        os.unlink(new)
    except OSError:
        pass
