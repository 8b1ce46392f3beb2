"""What can be said of an instruction by its text alone: said before anything runs, with its line.

The forms are split here once, for all: what building.py and settings.py get is words.
"""

from __future__ import annotations

import json

from pybox import times
from pybox.containerfile.words import WordError, as_json, expand, raw_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.containerfile.reading import Containerfile, Instruction

_FLAGS = {
    "FROM": ("platform",),
    "RUN": ("network",),
    "COPY": ("from", "chown", "chmod", "link"),
    "ADD": ("chown", "chmod", "link"),
    "HEALTHCHECK": ("interval", "timeout", "start-period", "start-interval", "retries"),
}
_NETWORKS = ("default", "none")
# The unit of a time in HEALTHCHECK, in ns, as Go's ParseDuration reads them.


def check(file: Containerfile) -> None:
    """Refuse what no build could do. Raises ContainerfileError."""
    for instruction in file.instructions:
        checked = _CHECKS.get(instruction.word)
        if checked is None:
            raise _unknown(file, instruction)
        known = _FLAGS.get(instruction.word, ())
        given = [name for name, _ in instruction.flags]
        for name in given:
            if name not in known:
                raise file.wrong(
                    instruction.line, f"{instruction.word} --{name} is not supported", _instead(instruction.word, name)
                )
            if given.count(name) > 1:
                raise file.wrong(instruction.line, f"--{name} is given twice")
        try:
            checked(instruction, file.escape)
        except WordError as error:
            raise file.wrong(instruction.line, f"{instruction.word}: {error}") from None


def _unknown(file: Containerfile, instruction: Instruction) -> Exception:
    from difflib import get_close_matches

    if instruction.word == "ONBUILD":
        return file.wrong(instruction.line, "ONBUILD is not supported", "write the instruction where it is to be done")
    near = get_close_matches(instruction.word, _CHECKS, 1, 0.6)
    return file.wrong(instruction.line, f"no such instruction: {instruction.word}", f"did you mean {near[0]}?" if near else None)


def _instead(word: str, flag: str) -> str | None:
    if (word, flag) == ("RUN", "mount"):
        return "COPY what it needs; `pybox build --network` and the other options of `pybox run` hold for every RUN"
    return None


def words(text: str) -> list[str]:
    """Return the words of a list that may be a JSON array; variables are not replaced yet."""
    found = as_json(text)
    return text.split() if found is None else found


def pairs(text: str, escape: str) -> list[tuple[str, str]]:
    """Return (name, value) of ENV or LABEL, as they stand there: NAME=VALUE..., or the older NAME VALUE. Raises WordError."""
    found = raw_words(text, escape)
    if not found:
        raise WordError("needs NAME=VALUE")
    if "=" not in found[0]:
        name, *rest = text.split(None, 1)
        if not rest:
            raise WordError(f"{name} has no value, write NAME=VALUE")
        return [(name, rest[0])]
    for word in found:
        if "=" not in word[1:]:
            raise WordError(f"{word!r} is not NAME=VALUE")
    return [(name, value) for name, _, value in (word.partition("=") for word in found)]


def arguments(text: str, escape: str) -> list[tuple[str, str | None]]:
    """Return (name, default) of ARG. Raises WordError."""
    found: list[tuple[str, str | None]] = []
    for word in raw_words(text, escape):
        name, equals, value = word.partition("=")
        if not name.replace("_", "a").isalnum() or not name.isascii():
            raise WordError(f"{name!r} is no name for a variable")
        found.append((name, value if equals else None))
    if not found:
        raise WordError("needs NAME or NAME=VALUE")
    return found


def duration(name: str, text: str) -> int:
    """Return a time as Go writes it ("1m30s"), in ns. Raises WordError."""
    found = times.duration(text) if text else 0
    if found is None:
        raise WordError(f"--{name}={text}: not a time like 30s or 1m30s")
    if not text or (found < 10**6 and text.strip("0.hmnsu")):  # with digits other than 0, that is
        raise WordError(f"--{name}={text}: must be 0 or at least 1ms")
    if found >= 1 << 63:  # of nanoseconds, as Go counts them: three hundred years
        raise WordError(f"--{name}={text}: too long")
    return found


def mode(text: str) -> int:
    """Return an octal mode. Raises WordError."""
    if not text or text.strip("01234567") or len(text) > 5 or int(text, 8) > 0o7777:
        raise WordError(f"--chmod={text}: must be octal, like 755")
    return int(text, 8)


def sources(instruction: Instruction, escape: str) -> tuple[list[str], str]:
    """Return the sources of COPY or ADD that are no here-documents, and the destination; variables are not replaced yet.

    Raises WordError.
    """
    given = words(instruction.text)
    if instruction.heredocs:
        given = [word for word in given if "<<" not in word]
    if len(given) + len(instruction.heredocs) < 2 or not given:
        raise WordError("needs a source and a destination")
    return given[:-1], given[-1]


def no_way_out(path: str) -> None:
    """Refuse what would leave the context. Raises WordError."""
    if ".." in path.split("/"):
        raise WordError(f"{path}: leads out of the build context")
    if "\0" in path:
        raise WordError(f"{path!a}: a zero byte")


def _some(instruction: Instruction, escape: str) -> None:
    if not instruction.text:
        raise WordError("needs a value")
    _expandable(instruction.text, escape)


def _from(instruction: Instruction, escape: str) -> None:
    given = instruction.text.split()
    if not (len(given) == 1 or (len(given) == 3 and given[1].upper() == "AS")):
        raise WordError("must be IMAGE or IMAGE AS NAME")


def _run(instruction: Instruction, escape: str) -> None:
    if not instruction.text or as_json(instruction.text) == []:
        raise WordError("needs a command")
    network = dict(instruction.flags).get("network", "default")
    if network not in _NETWORKS:
        raise WordError(f"--network={network}: must be default or none; another is for `pybox build --network` to allow")


def _copy(instruction: Instruction, escape: str) -> None:
    given, _ = sources(instruction, escape)
    flags = dict(instruction.flags)
    for source in given:
        scheme, _, rest = source.partition("/")
        if source.startswith("git@") or (scheme.endswith(":") and rest.startswith("/")):
            raise WordError(f"{source}: what is on the network is not fetched; download it before, or in a RUN")
        no_way_out(source)
    if "from" in flags and not flags["from"]:
        raise WordError("--from is empty")
    if "chmod" in flags and "$" not in flags["chmod"]:
        mode(flags["chmod"])


def _env(instruction: Instruction, escape: str) -> None:
    for name, value in pairs(instruction.text, escape):
        _expandable(name, escape)
        _expandable(value, escape)


def _expandable(text: str, escape: str) -> None:
    try:
        expand(text, {}, escape)
    except WordError as error:
        if not str(error).endswith("not set"):  # ${x:?} can be told only when x is known
            raise


def _arg(instruction: Instruction, escape: str) -> None:
    for _, default in arguments(instruction.text, escape):
        _expandable(default or "", escape)


def _shell(instruction: Instruction, escape: str) -> None:
    if not as_json(instruction.text):
        raise WordError('must be a JSON array, like ["/bin/bash", "-c"]')


def _command(instruction: Instruction, escape: str) -> None:
    if not instruction.text:
        raise WordError("needs a command")


def _healthcheck(instruction: Instruction, escape: str) -> None:
    word, _, rest = instruction.text.partition(" ")
    if word.upper() not in ("CMD", "NONE") or (word.upper() == "CMD") != bool(rest.strip()):
        raise WordError("must be CMD and a command, or NONE")
    for name, value in instruction.flags:
        if name == "retries":
            if not (value.isascii() and value.isdigit() and len(value) < 10):
                raise WordError(f"--retries={value}: must be a number")
        else:
            duration(name, value)


def _volume(instruction: Instruction, escape: str) -> None:
    if not words(instruction.text):
        raise WordError("needs a path")


_CHECKS: dict[str, Callable[[Instruction, str], None]] = {
    "FROM": _from,
    "RUN": _run,
    "COPY": _copy,
    "ADD": _copy,
    "ENV": _env,
    "LABEL": _env,
    "ARG": _arg,
    "WORKDIR": _some,
    "USER": _some,
    "EXPOSE": _some,
    "STOPSIGNAL": _some,
    "MAINTAINER": _some,
    "VOLUME": _volume,
    "SHELL": _shell,
    "CMD": _command,
    "ENTRYPOINT": _command,
    "HEALTHCHECK": _healthcheck,
}


def quoted(command: list[str]) -> str:
    """Return a command as history shows it: the JSON array of docker."""
    return json.dumps(command, ensure_ascii=False)
