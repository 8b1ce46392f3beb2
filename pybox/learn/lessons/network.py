"""Lesson 11: network namespaces, and a cable between two of them."""

from __future__ import annotations

from pybox.learn.lab import Lab
from pybox.learn.lesson import Finding, Lesson, Mutant, Observed, either, waits_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.seen import Seen

_CAPS = ("CAP_SYS_ADMIN", "CAP_NET_ADMIN")
_UP = 1  # RTF_UP of route(8)
_MAKE = f"unshare -n sleep 1000 &\n# until it is there:\n{waits_for('net')}"
_CABLE = "ip link add name cable type veth\n"
_PLUG = "ip link set veth0 netns $!\n"
_HERE = "ip addr add 10.9.0.1/24 dev cable\nip link set cable up\n"
_THERE = 'nsenter -n -t $! sh -c "ip addr add 10.9.0.2/24 dev veth0; ip link set veth0 up"'


def _links(seen: Seen) -> list[str]:
    """Return the links of a process's network namespace: /proc/PID/net is of that process, wherever it is read."""
    return [line.partition(":")[0].strip() for line in seen.file("net/dev").splitlines()[2:]]


def _routes(seen: Seen) -> list[tuple[str, str]]:
    """Return (link, destination) of the routes that are up; a link that is down has none."""
    found = []
    for line in seen.file("net/route").splitlines()[1:]:
        fields = line.split()
        if int(fields[3], 16) & _UP:
            number = bytes.fromhex(fields[1])[::-1]
            found.append((fields[0], ".".join(map(str, number))))
    return found


def _experiment(lab: Lab) -> Observed:
    with lab.after(_MAKE + _CABLE + _PLUG, cap_add=_CAPS) as scene:
        other = scene.apart("net")[0]
        here, there = "veth0" in _links(scene.one), "veth0" in _links(other)
        letter = {(True, True): "a", (False, True): "b", (True, False): "c"}.get((here, there), "d")
        return Observed(letter, f"links here: {' '.join(_links(scene.one))}; there: {' '.join(_links(other))}")


def _check(lab: Lab, body: str) -> Iterator[Finding]:
    with lab.after(body, cap_add=_CAPS) as scene:
        others = scene.apart("net")
        if not others:
            yield Finding(False, "no process that runs is in another network namespace than the container")
            return
        sides = (("the container", scene.one), ("the other namespace", others[0]))
        networks = []
        for where, seen in sides:
            links = [
                link
                for link in _links(seen)
                if link != "lo" and not link.startswith(("tunl", "sit", "gre", "ip6", "ip_", "erspan"))
            ]
            yield either(
                len(links) == 1,
                f"{where} has one end of a cable: {' '.join(links)}",
                f"{where} has both ends of the cable: {' '.join(links)}" if links else f"{where} has no link but lo",
            )
            routes = [network for link, network in _routes(seen) if link in links]
            yield either(
                bool(routes),
                f"{where} reaches {' '.join(routes)} by it",
                f"{where} has no route: its end has no address, or is down as all links are born",
            )
            networks.append(routes)
        if all(networks):
            same = bool(set(networks[0]) & set(networks[1]))
            yield either(
                same,
                "both ends are in one network",
                f"the ends are in two networks, {networks[0][0]} and {networks[1][0]}: neither finds the other",
            )


LESSON = Lesson(
    number=11,
    name="network",
    title="A cable between two networks",
    text="""\
A network namespace has its own links, addresses, routes, ports, firewall rules and abstract unix sockets. A new one has lo, which is down,
and nothing else: no packet gets in or out. That is the default of a container of pybox, with lo up.

A link is in one namespace at a time and can be moved. A veth pair is a cable: what goes in at one end comes out at the other. Leave one
end here, move the other, give both an address of one network, set both up, and the two namespaces talk. A bridge on the host joins many
such cables, and a rule that translates addresses leads to the world: that is all there is to `--network`.

When the last process of a network namespace ends, its virtual links go with it; of a pair, both ends.

Some things are elsewhere: unix sockets with a path are files, in the mount namespace. And /sys/class/net shows the namespace of whoever
mounted that /sys, but /proc/PID/net the one of PID.""",
    question="One end of a veth pair, veth0, is moved to another network namespace. Which namespaces list veth0 now?",
    choices=("both: a cable has two ends", "the other one only", "this one only: it was made here"),
    key="b",
    task="Leave a `sleep 1000` running in a network namespace of its own, joined with the container's by a veth pair: each side one end,\n    with an address of the same network, and up.",
    kind="script",
    start=_MAKE + _CABLE.rstrip(),
    hint="`nsenter -n -t $! ip ...` works in there. A link that is moved loses its addresses and is down.",
    solution=_MAKE + _CABLE + _PLUG + _HERE + _THERE,
    mutants=(
        Mutant("a cable reaches whoever needs it", _MAKE + _CABLE + _HERE.rstrip(), "has both ends of the cable"),
        Mutant(
            "a link with an address works",
            _MAKE + _CABLE + _PLUG + _HERE + "nsenter -n -t $! ip addr add 10.9.0.2/24 dev veth0",
            "the other namespace has no route",
        ),
        Mutant(
            "any two addresses find each other",
            _MAKE + _CABLE + _PLUG + _HERE + _THERE.replace("10.9.0", "10.8.0"),
            "in two networks",
        ),
        Mutant(
            "a link takes its address along",
            _MAKE + _CABLE + "ip addr add 10.9.0.2/24 dev veth0\nip link set veth0 up\n" + _PLUG + _HERE.rstrip(),
            "the other namespace has no route",
        ),
        Mutant("a network namespace of its own is a network", _MAKE.rstrip(), "no link but lo"),
    ),
    experiment=_experiment,
    check=_check,
    reading=("network_namespaces(7)", "veth(4)", "nsenter(1)"),
    code=("pybox/kernel/network.py", "pybox/network/rtnl.py"),
)
