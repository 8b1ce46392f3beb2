"""`pybox inspect`: everything that is known of a container, as one JSON whose shape stays."""

from __future__ import annotations

import os

from pybox import kept, state
from pybox.dirs import Dirs
from pybox.errors import SpecError
from pybox.host import read
from pybox.network import pool
from pybox.views import View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

_KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def describe(dirs: Dirs, one: View) -> dict[str, Json]:
    """Return all that is known. Each key is always there; what is not known or does not apply is null or empty.

    state       how it is and how it ended          config      what to run, as it was asked for, defaults left out
    health      its checks                          limits      of config, for who looks for them alone
    restart     policy and count                    mounts      of config, likewise
    network     addresses by network, ports of the host that lead to it
    groups      control group by controller         namespaces  the kernel's names of them, as in /proc/PID/ns
    limited_by  what keeps the writable layer to its size
    log         where it is, and when it rotates    journal     the record itself, with what undoing needs, and the result
    """
    entry = one.entry
    config = state.parse(read(f"{kept.folder(dirs, entry.identity)}/config")) or {}
    spec = entry.journal.get("spec") or config.get("spec")
    spec = spec if isinstance(spec, dict) else {}
    result = entry.result or {}
    plain = one.to_json()
    return {
        **plain,
        "state": {
            "status": entry.status,
            "alive": entry.alive,
            "pid": entry.pid,
            "owner": entry.journal.get("owner") if entry.alive else None,
            "started": plain["started"],
            "ended": plain["ended"],
            "exit_code": result.get("exit_code"),
            "reason": result.get("reason"),
            "error": result.get("error"),
            "stopped": kept.is_stopped(dirs, entry.identity),
            "health": one.health,
        },
        "health": None if one.condition is None else {**one.condition.to_json(), "check": config.get("health")},
        "restart": {"policy": config.get("restart", "no"), "count": one.restarts},
        "config": spec,
        "limits": spec.get("limits", {}),
        "mounts": spec.get("mounts", []),
        "layers": entry.journal.get("layers", []),
        "writable_layer": _there(f"{dirs.uppers}/{entry.identity}"),
        "limited_by": _limiter(dirs, entry.identity, spec),
        "network": _network(dirs, entry.identity, spec),
        "groups": dict(entry.groups) if entry.alive else {},
        "namespaces": _namespaces(entry.pid),
        "log": {
            "path": _there(f"{kept.folder(dirs, entry.identity)}/log"),
            "max_size": config.get("log_size", 10 << 20),  # what is at its default is not in the config: kept.Kept
            "max_files": config.get("log_files", 3),
        },
        "timeout": config.get("timeout"),
        "remove": config.get("remove", False),
        "journal": entry.journal,
        "result": entry.result,
    }


def _there(path: str) -> str | None:
    return path if os.path.exists(path) else None


def _limiter(dirs: Dirs, identity: str, spec: dict[str, Json]) -> str | None:
    """Return what enforces the size of the writable layer, as in the effective limits of a result; None without one."""
    limits, own = spec.get("limits"), f"{dirs.uppers}/{identity}"
    if not isinstance(limits, dict) or limits.get("storage_size") is None:
        return None
    if not os.path.exists(own):
        return "tmpfs"
    if os.path.exists(dirs.disk(identity)):
        return "loop"
    from pybox.steps.quota import project

    fd = os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return "project quota" if project(fd) else None
    except OSError:  # this file system knows no projects: --best-effort
        return None
    finally:
        os.close(fd)


def _network(dirs: Dirs, identity: str, spec: dict[str, Json]) -> dict[str, Json]:
    """Return what the claims of the container say; a plain user's has none (steps/pasta.py)."""
    addresses: dict[str, Json] = {}
    for one in pool.all_leases(dirs.state):
        if one.identity == identity:
            addresses[one.network] = {
                "ip": one.address,
                "ip6": one.address6 or None,
                "interface": one.link,
                "names": list(one.names),
            }
    shown: list[Json] = list(pool.shown_ports(dirs.state).get(identity, []))
    return {"mode": spec.get("network", "none"), "addresses": addresses, "ports": shown}


def _namespaces(pid: int | None) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for kind in _KINDS if pid is not None else ():
        try:
            found[kind] = os.readlink(f"/proc/{pid}/ns/{kind}")
        except OSError:  # it has ended meanwhile
            return {}
    return found


def pick(value: Json, path: str) -> Json:
    """Return one value by its path: state.pid, or docker's {{.State.Pid}}; mounts.0.target. Raises SpecError."""
    so_far = ""
    for word in path.strip("{} ").strip(".").split("."):
        if isinstance(value, dict):
            names = {name.replace("_", "").casefold(): name for name in value}
            name = word if word in value else names.get(word.replace("_", "").casefold(), "")
            if not name:
                known = ", ".join(value)
                raise SpecError("format", path, f"there is no {so_far}{word}", f"there are: {known}" if known else "")
            value = value[name]
        elif isinstance(value, (list, tuple)) and word.isdigit() and int(word) < len(value):
            value = value[int(word)]
        else:
            raise SpecError("format", path, f"there is no {so_far}{word}")
        so_far += f"{word}."
    return value
