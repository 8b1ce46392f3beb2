"""Containers on networks. All of it happens in a network namespace of the tests' own; "the internet" is another one behind it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import killing
import pytest
from harness import BUSYBOX, HERE, eventually
from place import INTERNET, OUTSIDE, Place, usable

from pybox import dirs

TWENTY_FIVE = """
import sys
from concurrent.futures import ThreadPoolExecutor
import pybox
with ThreadPoolExecutor(25) as pool:
    many = list(pool.map(lambda _: pybox.popen("busybox", ["sleep", "1000"], network="pybox"), range(25)))
sys.stdin.read()
for one in many:
    one.kill()
for one in many:
    one.wait()
"""


LISTEN = """
import socket
place = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
place.bind(("::", 5353))
print("ready", flush=True)
said = ""
while said != "end":
    said = place.recv(100).decode()
    print(said, flush=True)
"""


def tries(*hosts: str) -> str:
    """Return a script that tries to reach others by HTTP, all at once, and says which it reached."""
    one = "try() { wget -qO/dev/null http://$1/ & p=$!; (usleep 400000; kill $p) 2>/dev/null & wait $p && echo REACHED $1; }; "
    return one + "".join(f"try '{host}' & " for host in hosts) + "wait"


@pytest.fixture(scope="module")
def there(work: Path, store: dirs.Dirs) -> Iterator[Place]:
    usable()
    place = Place(work)
    os.makedirs(f"{store.state}/net", exist_ok=True)
    place.said("run", "--rm", "--allow-net", "none", "busybox", "true")  # so that what is the network's, and stays, is there
    yield place
    place.close()
    shutil.rmtree(f"{store.state}/net", ignore_errors=True)
    shutil.rmtree(f"{store.store}/networks", ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_left(there: Place, store: dirs.Dirs) -> Iterator[None]:
    """No link, rule, address or port outlives its container."""
    before = there.links()
    yield
    for identity in there.said("ps", "-aq").split():
        there.said("rm", "-f", identity)
    assert eventually(lambda: there.links() == before, 10), there.links() - before
    assert there.of_containers() == []
    assert os.listdir(f"{store.state}/net") == [] and not os.path.exists(f"{store.state}/ports")


def test_a_container_reaches_the_internet_and_nobody_there_reaches_it(there: Place) -> None:
    assert there.said("run", "--rm", "--network", "pybox", "busybox", "wget", "-qO-", f"http://{INTERNET}/") == "hello"
    there.said(
        "run", "-d", "--name", "web", "--network", "pybox", "-v", f"{there.www}:/www", "busybox", "httpd", "-f", "-h", "/www"
    )
    address = json.loads(there.said("inspect", "-f", "network.addresses.pybox.ip", "web").join('""'))
    there.at(there.internet, "ip", "route", "add", f"{address}/32", "via", OUTSIDE)
    assert eventually(lambda: there.fetch(f"http://{address}/") == "hello", 5)
    assert there.fetch(f"http://{address}/", there.internet, 0.4) == ""


def test_by_default_there_is_no_network(there: Place) -> None:
    assert there.pybox("run", "--rm", "busybox", "wget", "-qO-", f"http://{INTERNET}/").returncode != 0


def test_published_ports_are_reached_from_outside_from_the_host_and_from_localhost(there: Place) -> None:
    www = f"{there.www}:/www"
    there.said(
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "8080:80",
        "-p",
        "127.0.0.2:9090:80",
        "-v",
        www,
        "busybox",
        "httpd",
        "-f",
        "-h",
        "/www",
    )
    assert eventually(lambda: there.fetch("http://127.0.0.1:8080/") == "hello", 5)
    assert there.fetch(f"http://{OUTSIDE}:8080/") == there.fetch(f"http://{OUTSIDE}:8080/", there.internet) == "hello"
    assert there.fetch("http://127.0.0.2:9090/") == "hello" and there.fetch("http://127.0.0.1:9090/") == ""
    assert there.said("run", "--rm", "--network", "pybox", "busybox", "wget", "-qO-", f"http://{OUTSIDE}:8080/") == "hello"
    assert "0.0.0.0:8080->80/tcp" in there.said("ps")
    taken = there.pybox("run", "--rm", "-p", "8080:80", "busybox", "true")
    assert taken.returncode == 125 and "the port 8080/tcp is taken by container" in taken.stderr
    there.said("restart", "-t", "0", "web")
    assert eventually(lambda: there.fetch("http://127.0.0.1:8080/") == "hello", 5)


def test_published_ports_answer_at_ipv6_s_localhost_and_where_they_can_not_it_is_said(there: Place) -> None:
    switch = "/proc/sys/net/bridge/bridge-nf-call-ip6tables"  # only where br_netfilter is loaded
    words = ("-p", "[::1]:9091:80", "-v", f"{there.www}:/www", "busybox", "httpd", "-f", "-h", "/www")
    there.at(there.host, "sh", "-c", f"test ! -e {switch} || echo 0 >{switch}")
    there.said("run", "-d", "-p", "8080:80", *words)
    assert eventually(lambda: there.fetch("http://[::1]:8080/") == "hello", 5)
    assert there.fetch("http://[::1]:9091/") == "hello" and there.fetch("http://127.0.0.1:9091/") == ""
    if there.at(there.host, "sh", "-c", f"test ! -e {switch} || echo 1 | tee {switch}"):
        done = there.pybox("run", "--rm", *words)
        assert done.returncode == 125 and "can't be published on ::1: br_netfilter is in the way" in done.stderr


def test_a_port_of_a_program_of_the_host_is_left_to_it(there: Place) -> None:
    server = subprocess.Popen(there._words(there.host, BUSYBOX, "httpd", "-f", "-p", "8088", "-h", str(there.www)))
    try:
        assert eventually(lambda: there.fetch("http://127.0.0.1:8088/") == "hello", 5)
        done = there.pybox("run", "--rm", "-p", "8088:80", "busybox", "true")
        assert done.returncode == 125 and "a program of the host listens there" in done.stderr
    finally:
        server.kill()
        server.wait()


def test_containers_on_a_network_find_each_other_by_name_and_others_do_not(there: Place) -> None:
    there.said("network", "create", "other")
    try:
        there.said(
            "run", "-d", "--name", "web", "--network", "other", "-v", f"{there.www}:/www", "busybox", "httpd", "-f", "-h", "/www"
        )
        there.said("run", "-d", "--name", "first", "--network", "other", "busybox", "sleep", "100")
        assert there.said("run", "--rm", "--network", "other", "busybox", "wget", "-qO-", "http://web/") == "hello"
        there.said("run", "-d", "--name", "late", "--network", "pybox", "--network", "other", "busybox", "sleep", "100")
        assert "\tlate " in there.said("exec", "first", "cat", "/etc/hosts")  # who came later is there, too
        assert there.said("exec", "late", "wget", "-qO-", "http://web/") == "hello"  # by its second interface
        there.said("rm", "-f", "late")
        assert "\tlate " not in there.said("exec", "first", "cat", "/etc/hosts")
        address = there.said("inspect", "-f", "network.addresses.other.ip", "web")
        assert there.said("run", "--rm", "--network", "pybox", "busybox", "sh", "-c", tries(address)) == ""
        assert there.pybox("network", "rm", "other").returncode == 125
        for name in ("web", "first"):
            there.said("rm", "-f", name)
    finally:
        there.said("network", "rm", "other")


def test_a_container_can_share_the_network_of_another(there: Place) -> None:
    there.said(
        "run", "-d", "--name", "web", "--network", "pybox", "-v", f"{there.www}:/www", "busybox", "httpd", "-f", "-h", "/www"
    )
    assert there.said("run", "--rm", "--network", "container:web", "busybox", "wget", "-qO-", "http://127.0.0.1/") == "hello"
    done = there.pybox("run", "--rm", "--network", "container:nobody", "busybox", "true")
    assert done.returncode == 125 and "no container nobody runs" in done.stderr


def test_an_allow_list_refuses_everything_else(there: Place) -> None:
    """Other ports, the host, neighbours, name servers: all of it is a way out."""
    there.said("run", "-d", "--name", "web", "-p", "8080:80", "-v", f"{there.www}:/www", "busybox", "httpd", "-f", "-h", "/www")
    address = there.said("inspect", "-f", "network.addresses.pybox.ip", "web")
    gateway = address.rsplit(".", 2)[0] + ".0.1"
    script = tries(f"{INTERNET}:81", address, "web", f"{gateway}:8080", f"{OUTSIDE}:8080")
    # not even as somebody else: the right to change one's address is of no use
    changed = f"ip address add 10.144.9.9/20 dev eth0; ip route replace default via {gateway} src 10.144.9.9; {script}"
    words = ("run", "--rm", "--cap-add", "NET_ADMIN", "--allow-net", "none", "busybox", "sh", "-c", changed)
    other = there.start(*words)
    script = f"timeout 5 wget -qO- http://{INTERNET}/; {script}"
    assert there.said("run", "--rm", "--allow-net", f"{INTERNET}:80", "busybox", "sh", "-c", script) == "hello"
    assert other.communicate()[0] == b"" and other.returncode == 0


def test_an_allow_list_knows_ipv6(there: Place) -> None:
    there.said(
        "run", "-d", "--name", "web", "--network", "pybox", "-v", f"{there.www}:/www", "busybox", "httpd", "-f", "-h", "/www"
    )
    there.said("exec", "web", "httpd", "-p", "81", "-h", "/www")
    address = f"[{there.said('inspect', '-f', 'network.addresses.pybox.ip6', 'web')}]"
    script = f"timeout 5 wget -qO- http://{address}/; {tries(f'{address}:81')}"
    assert there.said("run", "--rm", "--allow-net", f"{address}:80", "busybox", "sh", "-c", script) == "hello"
    assert there.said("run", "--rm", "--allow-net", "none", "busybox", "sh", "-c", tries(address)) == ""


@pytest.mark.parametrize("rights", ["none", "NET_RAW,NET_ADMIN"])
def test_nobody_speaks_for_a_neighbour_for_the_host_or_for_a_router(there: Place, rights: str) -> None:
    """Not by IPV6_FREEBIND, ARP, router or neighbour advertisements, frames and packets of its own making: hostile.py."""
    look = "wget -qO- http://{0}:1/; wget -qO- http://[{1}]:1/; sleep 1000"
    (network,) = json.loads(there.said("network", "inspect", "pybox"))
    gateways = (network["subnet"].replace(".0/20", ".1"), network["subnet6"].replace("/64", "1"))
    there.said("run", "-d", "--name", "victim", "--network", "pybox", "busybox", "sh", "-c", look.format(*gateways))
    victim = [there.said("inspect", "-f", f"network.addresses.pybox.{kind}", "victim") for kind in ("ip", "ip6")]
    own = network["subnet"].replace(".0/20", ".99")
    raw = [] if rights == "none" else [word for right in rights.split(",") for word in ("--cap-add", right)]
    words = ("run", "--rm", "--network", "pybox", "--ip", own, *raw, "host", "/usr/bin/python3", f"{HERE}/hostile.py")
    heard = subprocess.Popen(there._words(there.host, sys.executable, "-c", LISTEN), stdout=subprocess.PIPE, text=True)
    try:
        assert heard.stdout and heard.stdout.readline() == "ready\n"
        there.said(*words, own, *gateways, *victim, *(["raw"] if raw else []))
        assert heard.communicate(timeout=10)[0].splitlines() == ["hello", "hello, too", "end"]
    finally:
        heard.kill()
        heard.wait()
    seen = there.said("exec", "victim", "sh", "-c", "cat /proc/net/arp; ip -6 neigh; ip -6 route")
    bridge = there.at(there.host, "ip", "-br", "link", "show", network["bridge"]).split()[2]
    assert seen.count(bridge) == 2 and "default" not in seen, seen
    for name in ("ipv4/conf/{}/accept_source_route", "ipv4/conf/{}/accept_redirects", "ipv6/conf/{}/accept_ra"):
        assert there.at(there.host, "cat", f"/proc/sys/net/{name.format(network['bridge'])}") == "0\n"


def test_a_name_that_is_allowed_is_known_inside(there: Place) -> None:
    done = there.said("run", "--rm", "--allow-net", "localhost:80", "busybox", "cat", "/etc/hosts")
    assert done.count("127.0.0.1\tlocalhost") == 2
    refused = there.pybox("run", "--rm", "--allow-net", "a" * 64 + ":80", "busybox", "true")
    assert refused.returncode == 125 and "this host can't resolve the name" in refused.stderr


def test_what_was_asked_for_is_there(there: Place) -> None:
    words = ("--network", "pybox", "--mac-address", "02:00:00:00:00:07", "--dns", "192.0.2.53", "--add-host", "db:192.0.2.9")
    subnet = json.loads(there.said("network", "inspect", "pybox"))[0]["subnet"]
    wanted = subnet.split(".0/")[0] + ".77"
    seen = there.said(
        "run", "--rm", *words, "--ip", wanted, "busybox", "sh", "-c", "ip a show eth0; cat /etc/resolv.conf /etc/hosts"
    )
    assert f"inet {wanted}/20" in seen and "02:00:00:00:00:07" in seen
    assert "nameserver 192.0.2.53\n" in seen and "192.0.2.9\tdb\n" in seen


def test_a_user_namespace_can_have_a_network(there: Place) -> None:
    words = ("run", "--rm", "--userns", "--network", "pybox", "busybox", "wget", "-qO-", f"http://{INTERNET}/")
    assert there.said(*words) == "hello"


def test_a_system_container_has_its_address_its_names_and_its_name_servers_and_keeps_them(there: Place) -> None:
    words = ("--network", "pybox", "--hostname", "sysbox", "--dns", "192.0.2.53", "busybox", "init")
    there.said("run", "-d", "--system", "--name", "sys", *words)
    address = there.said("inspect", "-f", "network.addresses.pybox.ip", "sys")
    look = f"ip -o a show eth0; wget -qO- http://{INTERNET}/; cat /etc/resolv.conf /etc/hosts /etc/hostname"
    first = there.said("exec", "sys", "sh", "-c", look)
    assert f"inet {address}/20" in first and "hello" in first and "nameserver 192.0.2.53\n" in first
    assert f"\n{address}\tsys sysbox " in first and first.endswith("sysbox")
    there.said("restart", "-t", "0", "sys")
    assert f"inet {address}/20" in there.said("exec", "sys", "sh", "-c", look)


def test_a_rate_is_kept(there: Place) -> None:
    big = there.www / "big"
    big.write_bytes(bytes(500_000))
    begin = time.monotonic()
    there.said("run", "--rm", "--net-rate", "8m", "busybox", "wget", "-qO/dev/null", f"http://{INTERNET}/big")
    assert time.monotonic() - begin > 0.3  # 0.5 MB at 8 Mbit/s take 0.5 s, less what may go at once


def test_fifty_started_at_once_have_fifty_addresses(there: Place, store: dirs.Dirs) -> None:
    """By two programs, so that no lock of one program helps."""
    many = [
        subprocess.Popen(there._words(there.host, sys.executable, "-c", TWENTY_FIVE), stdin=subprocess.PIPE) for _ in range(2)
    ]
    held = Path(store.state, "net/pybox")
    assert eventually(lambda: held.is_dir() and len(os.listdir(held)) == 50)
    assert len({os.readlink(path).split()[2] for path in held.iterdir()}) == 50
    for process in many:
        process.communicate()
        assert process.returncode == 0


def test_containers_and_pyboxes_killed_at_any_moment_leave_nothing(there: Place, store: dirs.Dirs) -> None:
    """Of these a few: killing.py kills 200."""
    there.said("network", "create", "second")
    killing.kill(there, Path(store.state), len(killing.WAYS), seed=5)
    assert eventually(lambda: killing.left(there, Path(store.state)) == [], 10), killing.left(there, Path(store.state))
    there.said("network", "rm", "second")


def test_what_is_in_the_way_is_said(there: Place) -> None:
    there.at(there.host, "sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward")
    there.at(
        there.host, "nft", "add table ip foreign; add chain ip foreign f { type filter hook forward priority 0; policy drop; }"
    )
    try:
        done = there.pybox("run", "--rm", "--network", "pybox", "busybox", "true")
        assert done.returncode == 0 and "pybox: warning: this host forwards nothing" in done.stderr
        (seen,) = json.loads(there.said("network", "inspect", "pybox"))
        assert "ip foreign of nftables drops what is forwarded" in seen["in_the_way"][1]
    finally:
        there.at(there.host, "nft", "delete table ip foreign")
        there.at(there.host, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")


def test_rules_that_somebody_flushed_come_back_and_who_had_an_allow_list_is_cut_off(there: Place) -> None:
    there.said("network", "create", "other")
    web = ("-v", f"{there.www}:/www", "busybox", "httpd", "-f", "-h", "/www")
    there.said("run", "-d", "--name", "web", "--network", "other", "-p", "8091:80", *web)
    there.said("run", "-d", "--name", "fenced", "--allow-net", f"{INTERNET}:80", "busybox", "sleep", "1000")
    there.at(there.host, "nft", "flush ruleset")
    assert there.said("run", "--rm", "--network", "pybox", "busybox", "wget", "-qO-", f"http://{INTERNET}/") == "hello"
    assert eventually(lambda: there.fetch("http://127.0.0.1:8091/") == "hello", 5)
    assert there.said("exec", "web", "wget", "-qO-", f"http://{INTERNET}/") == "hello"
    assert there.said("exec", "fenced", "sh", "-c", tries(INTERNET)) == ""
    there.said("rm", "-f", "web", "fenced")
    there.said("network", "rm", "other")


def test_the_steps_of_a_network_are_explained(there: Place) -> None:
    plan = json.loads(there.said("explain", "--format", "json", "run", "-p", "8080:80", "--allow-net", "none", "busybox", "true"))
    steps = {step["step"]: step for step in plan["steps"]}
    for name, verb in (("LeaseAddress", "lease"), ("PlugIn", "link"), ("PublishPorts", "ports"), ("Fence", "fence")):
        assert [leaf[0] for leaf in steps[name]["leaves"]] == [verb] and steps[name]["lesson"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--network", "nowhere"), "no such network: nowhere"),
        (("-p", "x"), "publish: 'x'"),
        (("--network", "host", "-p", "80:80"), "can't be together with --network host"),
        (("--ip", "192.0.2.1"), "not of the network pybox"),
        (("--net-rate", "fast"), "not a number of bits a second"),
    ],
)
def test_bad_input_gets_one_line_and_creates_nothing(there: Place, words: tuple[str, ...], message: str) -> None:
    done = there.pybox("run", "--rm", *words, "busybox", "true")
    assert done.returncode == 125 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("pybox: error: ") == 1
