"""Reading the texts that command lines carry: -v, --tmpfs, --ulimit, --env-file, capability names. Each failure is one SpecError."""

from __future__ import annotations

import posix as os

from pybox import dirs
from pybox.errors import SpecError
from pybox.paths import absolute, environment
from pybox.spec import Mount, Rlimit
from pybox.units import parse_bytes, parse_int


def parse_volume(text: str) -> Mount:
    """Return the Mount of ``-v SRC:DST[:ro|rw]``. A SRC that starts with a dot is taken from the current directory, one that is a
    name without a slash is a volume. ``-v DST`` is a volume without a name."""
    if text.startswith("/") and ":" not in text:
        return _anonymous(text, read_only=False)
    parts = text.split(":")
    if len(parts) not in (2, 3) or not parts[0] or not parts[1]:
        raise SpecError("volume", text, "must be SRC:DST[:ro]", "e.g. -v /srv/data:/data:ro")
    source, target, *rest = parts
    options = rest[0].split(",") if rest else []
    for option in options:
        # z and Z relabel for SELinux: nothing to do where there is none
        if option not in ("ro", "rw", "z", "Z", "rprivate", "private"):
            raise SpecError("volume", text, f"unknown option {option!r}", "ro or rw")
    if source.startswith(("./", "../")) or source in (".", ".."):
        source = absolute(source)
    elif "/" not in source:
        source = volume_path(source)
    return Mount(target, source=source, read_only="ro" in options)


def _anonymous(target: str, *, read_only: bool) -> Mount:
    return Mount(target, source=volume_path(os.urandom(32).hex()), read_only=read_only, anonymous=True)


def volume_path(name: str) -> str:
    """Return where the data of a volume is; it need not exist. Raises SpecError for a name that can't be one."""
    return f"{dirs.current().store}/volumes/{volume_name(name)}/data"


def volume_name(name: str) -> str:
    """Return a name that a volume may have: docker's rule. Raises SpecError."""
    plain = name.replace("_", "").replace(".", "").replace("-", "")
    if not (name[:1].isalnum() and (plain.isalnum() and plain.isascii()) and len(name) <= 100):
        raise SpecError("volume", name, "not a name of letters, digits and _ . -", "a directory of the host begins with / or ./")
    return name


def parse_mount(text: str) -> Mount:
    """Return the Mount of ``--mount type=bind|volume|tmpfs|image,source=SRC,target=DST[,readonly]``, docker's and podman's words."""
    fields: dict[str, str] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        key = _MOUNT_WORDS.get(key, key)
        if key not in ("type", "source", "target", "readonly", "readwrite", "tmpfs-size", "tmpfs-mode"):
            raise SpecError("mount", text, f"unknown word {key!r}", f"type={_KINDS},source=SRC,target=DST,readonly")
        fields[key] = value
    kind, source, target = fields.get("type", "volume"), fields.get("source", ""), fields.get("target", "")
    for word in ("readonly", "readwrite"):
        if fields.get(word, "") not in ("", "true", "false", "1", "0"):
            raise SpecError("mount", text, f"{word} is true or false")
    if "readwrite" in fields:
        fields["readonly"] = "false" if fields["readwrite"] in ("", "true", "1") else "true"
    read_only = fields.get("readonly", "true" if kind == "image" else "false") in ("", "true", "1")
    if not target:
        raise SpecError("mount", text, "needs target=DST")
    if kind == "tmpfs":
        if source:
            raise SpecError("mount", text, "a tmpfs has no source")
        given = (f"size={fields['tmpfs-size']}" if "tmpfs-size" in fields else "", f"mode={fields.get('tmpfs-mode', '1777')}")
        return parse_tmpfs(f"{target}:{','.join(filter(None, (*given, 'ro' if read_only else '')))}")
    if kind not in ("bind", "volume", "image"):
        raise SpecError("mount", text, f"type {kind} is not there", _KINDS)
    if kind == "volume" and not source and not fields.keys() & {"tmpfs-size", "tmpfs-mode"}:
        return _anonymous(target, read_only=read_only)
    if not source or "tmpfs-size" in fields or "tmpfs-mode" in fields:
        raise SpecError("mount", text, f"a {kind} needs source=, and takes nothing of a tmpfs")
    if kind == "image":
        return Mount(target, image=source, read_only=read_only)
    if kind == "volume":
        return Mount(target, source=volume_path(source), read_only=read_only)
    return Mount(target, source=absolute(source) if source.startswith(".") else source, read_only=read_only)


_MOUNT_WORDS = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_KINDS = "bind|volume|tmpfs|image"


def parse_tmpfs(text: str) -> Mount:
    """Return the Mount of ``--tmpfs DST[:size=64m,mode=1777,exec,ro]``."""
    target, _, options = text.partition(":")
    size, mode, read_only, executable = None, 0o1777, False, False
    for option in options.split(",") if options else []:
        name, _, value = option.partition("=")
        if name == "size":
            size = parse_bytes("tmpfs size", value)
            if size == 0:
                raise SpecError(
                    "tmpfs", text, "a size of 0 is no limit at all to the kernel", "leave it out for half of the memory"
                )
        elif name == "mode" and value and all(c in "01234567" for c in value) and len(value) <= 5:
            mode = int(value, 8)
        elif option in ("ro", "rw"):
            read_only = option == "ro"
        elif option in ("exec", "noexec"):
            executable = option == "exec"
        elif option not in ("nosuid", "nodev"):  # always so
            raise SpecError("tmpfs", text, f"unknown option {option!r}", "size=64m, mode=1777, exec, ro")
    return Mount(target, size=size, mode=mode, read_only=read_only, exec=executable)


def parse_ulimit(text: str) -> Rlimit:
    """Return the Rlimit of ``--ulimit NAME=SOFT[:HARD]``; ``unlimited`` and -1 mean the same."""
    name, equals, values = text.partition("=")
    if not equals:
        raise SpecError("ulimit", text, "must be NAME=SOFT[:HARD]", "e.g. nofile=1024:4096")
    soft, colon, hard = values.partition(":")
    numbers = []
    for value in (soft, hard) if colon else (soft, soft):
        number = -1 if value == "unlimited" else parse_int("ulimit", value, -1, (1 << 63) - 1)
        assert number is not None
        numbers.append(number)
    return Rlimit(name.lower().removeprefix("rlimit_"), numbers[0], numbers[1])


def parse_env(text: str) -> tuple[str, str] | None:
    """Return (name, value) of ``-e NAME=VALUE``; ``-e NAME`` takes the caller's value, None when the caller has none."""
    name, equals, value = text.partition("=")
    if not name:
        raise SpecError("env", text, "must be NAME=VALUE or NAME")
    if equals:
        return name, value
    inherited = environment().get(name)
    return None if inherited is None else (name, inherited)


def read_env_file(path: str) -> list[tuple[str, str]]:
    """Return the variables of an ``--env-file``: NAME=VALUE or NAME lines, # comments; no quoting, as docker reads it."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")  # splitlines() would end a line at U+2028 too
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SpecError("env-file", path, str(reason)) from None
    found = []
    for number, line in enumerate(lines, 1):
        entry = line.lstrip()
        if not entry or entry.startswith("#"):
            continue
        name = entry.partition("=")[0]
        if not name or any(c.isspace() for c in name):
            raise SpecError("env-file", f"{path}:{number}", "not NAME=VALUE")
        pair = parse_env(entry)
        if pair:
            found.append(pair)
    return found


def parse_label(text: str) -> tuple[str, str]:
    """Return (key, value) of ``--label KEY[=VALUE]``."""
    key, _, value = text.partition("=")
    if not key:
        raise SpecError("label", text, "must be KEY or KEY=VALUE")
    return key, value


def parse_capability(text: str) -> str:
    """Return the full name of a capability: ``net_raw`` -> ``CAP_NET_RAW``; ``ALL`` stays."""
    name = text.strip().upper()
    return name if name == "ALL" or name.startswith("CAP_") else "CAP_" + name


def parse_security_opt(text: str) -> tuple[str, str]:
    """Return (what, value) of ``--security-opt seccomp=...|no-new-privileges[=BOOL]``."""
    name, _, value = text.partition("=" if "=" in text else ":")
    if name == "seccomp" and value:
        return name, value
    if name == "no-new-privileges" and value.lower() in ("", "true", "false"):
        return name, value.lower() or "true"
    raise SpecError(
        "security-opt", text, "not known", "seccomp=unconfined, seccomp=default, seccomp=PROFILE.json or no-new-privileges=BOOL"
    )
