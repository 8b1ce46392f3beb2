"""The table of what doctor tries, in the order in which it is shown: what explains other items comes first."""

from __future__ import annotations

from pybox.doctor import files, groups, kernel, namespaces, rights, runs, sizes, system
from pybox.doctor.item import Item
from pybox.doctor.session import Host
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Probe(Record):
    """One matter and the function that tries it."""

    id: str
    run: Callable[[Host], Item]


PROBES = (
    Probe("where", kernel.where),
    Probe("kernel", kernel.kernel),
    Probe("extension", runs.extension),
    Probe("caps", rights.capabilities),
    Probe("userns", namespaces.userns),
    Probe("subuid", namespaces.subuid),
    Probe("proc", namespaces.proc),
    Probe("seccomp", rights.filter_),
    Probe("pdeathsig", kernel.pdeathsig),
    Probe("cgroup", groups.cgroup),
    Probe("limits", groups.limits),
    Probe("kill", groups.kill),
    Probe("system", system.system),
    Probe("psi", kernel.psi),
    Probe("storage", files.storage),
    Probe("overlay", files.overlay),
    Probe("storage-size", sizes.sizes),
    Probe("images", files.images),
    Probe("leftovers", files.leftovers),
    Probe("run", runs.run),
    Probe("host", runs.host_image),
)
