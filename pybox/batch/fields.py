"""Fields: what a job of a batch file may say, one table; and from what it says to a Job.

The names are those of pybox.run; ``command``, ``volumes`` and ``pids_limit`` are its ``args``, ``mounts`` and ``pids`` for who comes
from the command line. A command that is one text is read by the image's own sh.
"""

from __future__ import annotations

from pybox.batch.template import fill, fill_all
from pybox.errors import SpecError
from pybox.jobs.job import Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pybox.fastjson import Json


def _number(value: Json) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


KINDS: dict[str, Callable[[Json], bool]] = {
    "a text": lambda value: isinstance(value, str),
    "a number": _number,
    "a number or a text": lambda value: isinstance(value, str) or _number(value),
    "true or false": lambda value: isinstance(value, bool),
    "a list of texts": lambda value: (
        isinstance(value, (list, tuple)) and all(isinstance(word, str) or _number(word) for word in value)
    ),
    "a list": lambda value: isinstance(value, (list, tuple)),
    "a table": lambda value: (
        isinstance(value, dict) and all(isinstance(entry, str) or _number(entry) for entry in value.values())
    ),
}
TEXT, NUMBER, SIZE, FLAG, WORDS, LIST, MAP = KINDS

FIELDS: dict[str, tuple[str, ...]] = {
    "image": (TEXT,),
    "args": (WORDS, TEXT),
    "name": (TEXT,),
    "needs": (WORDS, TEXT),
    "array": (NUMBER, TEXT, LIST),
    "timeout": (SIZE,),
    "input": (TEXT,),
    "retries": (SIZE,),
    "memory": (SIZE,),
    "memory_swap": (SIZE,),
    "cpus": (SIZE,),
    "cpu_shares": (SIZE,),
    "cpuset_cpus": (TEXT,),
    "pids": (SIZE,),
    "oom_score_adj": (SIZE,),
    "storage_size": (SIZE,),
    "env": (MAP,),
    "mounts": (WORDS, MAP),
    "ulimits": (WORDS,),
    "user": (SIZE,),
    "workdir": (TEXT,),
    "hostname": (TEXT,),
    "entrypoint": (TEXT, WORDS),
    "network": (TEXT,),
    "ip": (TEXT, WORDS),
    "mac_address": (TEXT,),
    "dns": (WORDS,),
    "add_host": (WORDS,),
    "publish": (WORDS,),
    "publish_all": (FLAG,),
    "allow_net": (WORDS,),
    "net_rate": (SIZE,),
    "pid": (TEXT,),
    "ipc": (TEXT,),
    "uts": (TEXT,),
    "userns": (FLAG,),
    "hpc": (FLAG,),
    "read_only": (FLAG,),
    "upper": (TEXT,),
    "cap_add": (WORDS,),
    "cap_drop": (WORDS,),
    "seccomp": (TEXT,),
    "no_new_privs": (FLAG,),
    "best_effort": (FLAG,),
    "init": (FLAG,),
}
ALIASES = {"command": "args", "volumes": "mounts", "pids_limit": "pids"}
# the columns of a table that are fields; all the others are for placeholders only
CELLS = ("image", "command", "name", "needs", "memory", "cpus", "pids", "timeout", "retries")
SHELL = ("sh", "-c")


def checked(said: Mapping[str, Json]) -> dict[str, Json]:
    """Return what was said by the names of FIELDS, each of a kind that it may have. Raises SpecError."""
    found: dict[str, Json] = {}
    for name, value in said.items():
        field = ALIASES.get(name, name)
        if field not in FIELDS:
            from difflib import get_close_matches

            near = get_close_matches(name.replace("-", "_"), [*FIELDS, *ALIASES], 1, 0.6)
            raise SpecError(name, "", "no such field", f"did you mean {near[0]}?" if near else "docs/batch.md lists them")
        if field in found:
            raise SpecError(name, "", f"is said twice: it is the same as {field}")
        if not any(KINDS[kind](value) for kind in FIELDS[field]):
            raise SpecError(name, value, f"must be {' or '.join(FIELDS[field])}")
        found[field] = value
    return found


def wanted(fields: Mapping[str, Json], values: Mapping[str, str] | None = None) -> tuple[Job, tuple[str, ...]]:
    """Return the job of checked fields, and what has to end well before it; ``values`` are for their placeholders, None: braces are braces. Raises SpecError."""
    said = {name: value for name, value in fields.items() if name != "array"}
    command = said.get("args")
    if isinstance(command, str):
        said["args"] = [*SHELL, command if values is None else fill("command", command, values, shell=True)]
    for name, value in said.items():
        if values is not None and not (name == "args" and isinstance(command, str)):
            said[name] = fill_all(name, value, values)
    needs = said.pop("needs", ())
    needs = _texts(needs.split() if isinstance(needs, str) else needs)
    for name in ("args", "cap_add", "cap_drop", "ulimits"):
        if name in said:
            said[name] = _texts(said[name])
    env = said.get("env")
    if isinstance(env, dict):
        said["env"] = {variable: _text(value) for variable, value in env.items()}
    return Job.from_json(said), tuple(dict.fromkeys(needs))


def _text(value: Json) -> str:
    return value if isinstance(value, str) else str(value)


def _texts(value: Json | list[str]) -> tuple[str, ...]:
    return tuple(_text(entry) for entry in value) if isinstance(value, (list, tuple)) else (_text(value),)
