"""What an instruction makes of an image's configuration: pure functions of the old settings and the instruction's words.

``config`` is "config" of the OCI image configuration (config.md). What changes no file comes through here and nowhere else.
"""

from __future__ import annotations

import posixpath
import signal

from pybox.containerfile import checking
from pybox.containerfile.words import WordError, as_json, expand
from pybox.kernel.command import PATH
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pybox.containerfile.reading import Instruction
    from pybox.fastjson import Json

    Config = dict[str, Json]

SHELL = ("/bin/sh", "-c")


class Wording(Record):
    """An instruction in its surroundings: the variables it may use, the escape character of its file."""

    instruction: Instruction
    values: Mapping[str, str]
    escape: str = "\\"

    @property
    def text(self) -> str:
        """What follows the word."""
        return self.instruction.text

    def expand(self, text: str) -> str:
        """Replace the variables. Raises WordError."""
        found = expand(text, self.values, self.escape)
        if "\0" in found:
            raise WordError("a zero byte")
        return found


def apply(config: Config, wording: Wording) -> tuple[Config, str]:
    """Return the new settings, and the line of the image's history. Raises WordError."""
    change = _CHANGES[wording.instruction.word]
    new = dict(config)
    said = change(new, wording)
    return {key: value for key, value in new.items() if value not in (None, "", [], {}) or key in ("Cmd", "Entrypoint")}, said


def strings(config: Mapping[str, Json], field: str) -> list[str]:
    """Return a list of texts; empty when absent."""
    found = config.get(field)
    return [str(item) for item in found] if isinstance(found, (list, tuple)) else []


def objects(config: Mapping[str, Json], field: str) -> Config:
    """Return an object; empty when absent."""
    found = config.get(field)
    return dict(found) if isinstance(found, dict) else {}


def shell(config: Config) -> list[str]:
    """Return what the shell form is given to."""
    return strings(config, "Shell") or list(SHELL)


def environment(config: Config) -> dict[str, str]:
    """Return the variables of an image."""
    return {name: value for name, _, value in (entry.partition("=") for entry in strings(config, "Env"))}


def workdir(config: Config, wanted: str) -> str:
    """Return the directory that WORKDIR means, absolute."""
    old = config.get("WorkingDir")
    found = posixpath.normpath(posixpath.join("/", old if isinstance(old, str) else "", wanted))
    return "/" + found.lstrip("/")


def command(text: str, config: Config) -> list[str]:
    """Return the words of a command in either form."""
    words = as_json(text)
    return [*shell(config), text] if words is None else words


def with_path(config: Config) -> Config:
    """Return the settings with a PATH: as docker, a build gives one to an image that has none."""
    env = environment(config)
    return config if "PATH" in env else {**config, "Env": [f"{name}={value}" for name, value in {"PATH": PATH, **env}.items()]}


def _env(config: Config, wording: Wording) -> str:
    given = [(wording.expand(name), wording.expand(value)) for name, value in checking.pairs(wording.text, wording.escape)]
    config["Env"] = [f"{name}={value}" for name, value in (environment(config) | dict(given)).items()]
    return " ".join(f"{name}={value}" for name, value in given)


def _label(config: Config, wording: Wording) -> str:
    given = [(wording.expand(name), wording.expand(value)) for name, value in checking.pairs(wording.text, wording.escape)]
    config["Labels"] = {**objects(config, "Labels"), **dict(given)}
    return " ".join(f"{name}={value}" for name, value in given)


def _cmd(config: Config, wording: Wording) -> str:
    words = command(wording.text, config)
    config["Cmd"] = list(words)
    return checking.quoted(words)


def _entrypoint(config: Config, wording: Wording) -> str:
    words = command(wording.text, config)
    config["Entrypoint"] = list(words)
    return checking.quoted(words)


def _user(config: Config, wording: Wording) -> str:
    user = wording.expand(wording.text)
    if not user:
        raise WordError("is empty")
    config["User"] = user
    return user


def _workdir(config: Config, wording: Wording) -> str:
    wanted = wording.expand(wording.text)
    if not wanted:
        raise WordError("is empty")
    config["WorkingDir"] = workdir(config, wanted)
    return wanted


def _expose(config: Config, wording: Wording) -> str:
    words = wording.expand(wording.text).split()
    config["ExposedPorts"] = {**objects(config, "ExposedPorts"), **{port: {} for word in words for port in ports(word)}}
    return " ".join(words)


def ports(word: str) -> list[str]:
    """Return the ports of "80", "53/udp", "8000-8003": each as PORT/PROTOCOL. Raises WordError."""
    numbers, _, protocol = word.partition("/")
    first, dash, last = numbers.partition("-")
    protocol = protocol.lower() or "tcp"
    last = last if dash else first
    if protocol not in ("tcp", "udp", "sctp") or not all(n.isascii() and n.isdigit() and len(n) <= 5 for n in (first, last)):
        raise WordError(f"{word}: must be PORT[-PORT][/tcp|/udp]")
    if not 1 <= int(first) <= int(last) <= 65535:
        raise WordError(f"{word}: must be between 1 and 65535")
    return [f"{number}/{protocol}" for number in range(int(first), int(last) + 1)]


def _volume(config: Config, wording: Wording) -> str:
    paths = [wording.expand(word) for word in checking.words(wording.text)]
    if not all(paths):
        raise WordError("a path is empty")
    config["Volumes"] = {**objects(config, "Volumes"), **{path: {} for path in paths}}
    return checking.quoted(paths)


def _shell(config: Config, wording: Wording) -> str:
    words = as_json(wording.text) or []
    config["Shell"] = list(words)
    return checking.quoted(words)


def _stop(config: Config, wording: Wording) -> str:
    wanted = wording.expand(wording.text)
    name = wanted.upper() if wanted.upper().startswith("SIG") else f"SIG{wanted.upper()}"
    known = wanted.isascii() and wanted.isdigit() and len(wanted) < 4 and 0 < int(wanted) <= signal.SIGRTMAX
    if not (known or name in signal.Signals.__members__ or name.startswith(("SIGRTMIN", "SIGRTMAX"))):
        raise WordError(f"{wanted}: no such signal")
    config["StopSignal"] = wanted
    return wanted


def _healthcheck(config: Config, wording: Wording) -> str:
    word, _, rest = wording.text.partition(" ")
    if word.upper() == "NONE":
        config["Healthcheck"] = {"Test": ["NONE"]}
        return "NONE"
    words = as_json(rest.strip())
    check: Config = {"Test": ["CMD-SHELL", rest.strip()] if words is None else ["CMD", *words]}
    for name, value in wording.instruction.flags:
        key = "".join(part.capitalize() for part in name.split("-"))
        check[key] = int(value) if name == "retries" else checking.duration(name, value)
    config["Healthcheck"] = check
    return " ".join((*(f"--{name}={value}" for name, value in wording.instruction.flags), wording.text))


_CHANGES: dict[str, Callable[[Config, Wording], str]] = {
    "ENV": _env,
    "LABEL": _label,
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "USER": _user,
    "EXPOSE": _expose,
    "VOLUME": _volume,
    "SHELL": _shell,
    "STOPSIGNAL": _stop,
    "HEALTHCHECK": _healthcheck,
    "WORKDIR": _workdir,
}
