"""System containers: an init of the image's own as process 1, which believes that it has booted a machine. `--system`.

    settle    write into the Spec what --system means, so that nothing after it need know: the plan, the journal and the kept
              configuration have it all as plain options
    stop      which signal asks which init to shut down: each init has a language of its own

An init runs many services as root and wants to mount, so its rights are those over its own user namespace: outside it is nobody.
Its control group is handed to it (kernel/cgroup.py), which is what systemd lives on.
"""

from __future__ import annotations

from pybox import users
from pybox.errors import LimitError
from pybox.host import Facts
from pybox.image.model import Image
from pybox.record import Record
from pybox.spec import Mount, Spec

# What an init needs beyond the default, all of it over its own namespaces only: mount file systems, set up the network, look at
# its services. Not CAP_SYS_BOOT: both systemd and busybox init just end when reboot(2) is refused to them, which is what is wanted.
CAPABILITIES = ("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_PTRACE", "CAP_AUDIT_WRITE")

# What systemd expects and others don't mind: https://systemd.io/CONTAINER_INTERFACE
MOUNTS = (Mount("/run", mode=0o755, exec=True),)  # /run/lock is the init's own to make, as on a machine
ENV = ("container", "pybox")


class Init(Record):
    """One kind of init: the name of its program, what asks it to shut down, and what it can't do without."""

    name: str
    signal: str
    needs_group: bool = False


INITS = (
    Init("systemd", "RTMIN+3", needs_group=True),  # halt.target, systemd(1)
    Init("busybox", "USR2"),  # power off, with the ::shutdown: lines of inittab(5) before
    Init("runsvdir", "HUP"),  # sends TERM to every runsv, then ends: runsvdir(8)
    Init("s6-svscan", "TERM"),  # stops what it supervises, then ends
    Init("init", "PWR"),  # System V's, as lxc does it: the powerfail line of inittab(5)
)


def init_of(image: Image, args: tuple[str, ...]) -> Init | None:
    """Return what kind of init a command is, by the program that its symlinks lead to; None when it is none that is known."""
    if not args:
        return None
    path = args[0] if "/" in args[0] else f"/sbin/{args[0]}"
    name = users.place_in_image(image, path.lstrip("/")).rpartition("/")[2] or path.rpartition("/")[2]
    if name == "busybox" and not {"init", "linuxrc"} & {path.rpartition("/")[2], *args[1:2]}:
        return None  # another applet
    return next((init for init in INITS if init.name == name), None)


def settle(spec: Spec, facts: Facts, image: Image) -> Spec:
    """Return the Spec with all that ``system`` means; settling it again changes nothing. Raises LimitError for what can't run here.

    What the user has asked for by name stays: mounts on the same place, variables, the stop signal, dropped capabilities.
    """
    entrypoint = image.config.entrypoint if spec.entrypoint is None else spec.entrypoint
    init = init_of(image, (*entrypoint, *(spec.args or image.config.cmd)))
    groups = facts.cgroups
    if init is not None and init.needs_group and groups.unified is None:
        raise LimitError(
            f"{init.name} can't be process 1 here, it needs a control group of its own: {groups.problem}",
            groups.fix or "run it as root; `pybox doctor system` says which init can run",
        )
    caps: tuple[str, ...] = ()
    if spec.userns or not facts.root:
        dropped = CAPABILITIES if "ALL" in spec.cap_drop else (*spec.cap_drop, *spec.cap_add)
        caps = tuple(cap for cap in CAPABILITIES if cap not in dropped)
    there = {mount.target.rstrip("/") for mount in spec.mounts}
    signal = spec.stop_signal or image.config.stop_signal or (init.signal if init is not None else "")
    return spec.replace(
        init=False,
        tty=True,
        cap_add=(*spec.cap_add, *caps),
        mounts=(*spec.mounts, *(mount for mount in MOUNTS if mount.target not in there)),
        env=spec.env if any(name == ENV[0] for name, _ in spec.env) else (ENV, *spec.env),
        stop_signal=signal,
    )


def callable_by(caps: frozenset[str]) -> frozenset[str]:
    """Return what the system call filter shall know of an init's capabilities.

    CAP_SYS_ADMIN opens many doors there. Over its own namespaces it is good for mounts and namespaces; what else it opens (bpf,
    fanotify, quotas, the kernel's log) a user namespace has no use for, and the kernel's holes are there.
    """
    return caps if "CAP_SYS_ADMIN" not in caps else (caps - {"CAP_SYS_ADMIN"}) | {"OWN_NAMESPACES"}
