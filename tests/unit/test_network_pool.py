"""Addresses and ports are claimed by one atomic call each; rules are made of what was claimed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pybox.errors import SpecError, StateError
from pybox.network import members, names, pool, rtnl
from pybox.network.networks import Network, _free, _overlap

NET = Network("n", "pb-n-0", "10.9.0.0/24", "fd00:9::/64")


def test_fifty_at_once_get_fifty_addresses(tmp_path: Path) -> None:
    with ThreadPoolExecutor(50) as threads:
        places = list(threads.map(lambda n: pool.lease(str(tmp_path), NET, f"{n % 3:012x}", 0, ()).place, range(50)))
    assert len(set(places)) == 50 and min(places) >= 2 and max(places) <= 254


def test_a_full_network_says_so(tmp_path: Path) -> None:
    small = NET.replace(subnet="10.9.0.0/29")
    for number in range(5):
        pool.lease(str(tmp_path), small, f"{number:012x}", 0, ())
    with pytest.raises(StateError, match="all 5 addresses of the network n are taken"):
        pool.lease(str(tmp_path), small, "0000000000ff", 0, ())


def test_an_address_that_is_taken_says_by_whom(tmp_path: Path) -> None:
    pool.lease(str(tmp_path), NET, "0000000000aa", 0, (), 7)
    with pytest.raises(StateError, match="taken by container 0000000000aa"):
        pool.lease(str(tmp_path), NET, "0000000000bb", 0, (), 7)


def test_who_releases_gives_up_his_own_only_and_twice_is_no_harm(tmp_path: Path) -> None:
    for identity in ("0000000000aa", "0000000000bb"):
        pool.lease(str(tmp_path), NET, identity, 0, ("name",))
    assert pool.release(f"{tmp_path}/net/n", "0000000000aa")
    assert not pool.release(f"{tmp_path}/net/n", "0000000000aa")
    assert pool.holders(str(tmp_path), "n") == {"0000000000bb"}


def test_a_wanted_address_must_be_one_of_the_network() -> None:
    assert NET.place("10.9.0.7") == NET.place("fd00:9::7") == 7
    for address in ("10.9.0.0", "10.9.0.1", "10.9.0.255", "10.8.0.7", "fd00:8::7", "fd00:9::1:7"):
        with pytest.raises(SpecError):
            NET.place(address)


def test_a_free_block_overlaps_nothing() -> None:
    taken = ["10.144.0.0/12", "10.160.0.0/16"]
    with pytest.raises(StateError):
        _free(taken)
    assert not any(_overlap(_free(["10.144.0.0/19"]), other) for other in ["10.144.0.0/19"])


def test_hosts_files_follow_who_comes_and_goes(tmp_path: Path) -> None:
    state = str(tmp_path)
    for identity, name in (("0000000000aa", "web"), ("0000000000bb", "db")):
        pool.lease(state, NET, identity, 0, (name,))
        os.mkdir(tmp_path / identity)
        (tmp_path / identity / "hosts").write_text(names.own_lines([("more", "1.2.3.4")]))
    names.refresh(state, ("n",))
    both = (tmp_path / "0000000000aa/hosts").read_text()
    assert "1.2.3.4\tmore\n" in both and "\tweb 0000000000aa\n" in both and "\tdb 0000000000bb\n" in both
    inode = os.stat(tmp_path / "0000000000aa/hosts").st_ino
    pool.release(f"{state}/net/n", "0000000000bb")
    names.refresh(state, ("n",))
    one = (tmp_path / "0000000000aa/hosts").read_text()
    assert "db" not in one and "web" in one and os.stat(tmp_path / "0000000000aa/hosts").st_ino == inode


def test_messages_are_what_pyroute2_makes_of_them() -> None:
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    message = rtnl.veth("pb0", 7, b"\x02\0\0\0\0\x01", "eth0", 5)
    raw = rtnl._packed(message, 1, 0)
    seen = ifinfmsg(raw)
    seen.decode()
    assert seen.get_attr("IFLA_IFNAME") == "pb0" and seen.get_attr("IFLA_MASTER") == 7 and seen["flags"] & 1
    peer = seen.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert peer.get_attr("IFLA_IFNAME") == "eth0" and peer.get_attr("IFLA_NET_NS_FD") == 5


def test_a_lease_remembers_the_ethernet_address_that_was_asked_for(tmp_path: Path) -> None:
    given = pool.lease(str(tmp_path), NET, "0000000000aa", 0, ("web",), mac="02:00:00:00:00:07")
    own = pool.lease(str(tmp_path), NET, "0000000000bb", 1, ())
    assert {one.identity: one for one in pool.leases(str(tmp_path), "n")} == {given.identity: given, own.identity: own}
    assert given.ether == bytes((2, 0, 0, 0, 0, 7)) and own.ether[0] & 3 == 2  # one's own, and not a group's


def test_nobody_is_called_localhost(tmp_path: Path) -> None:
    assert pool.lease(str(tmp_path), NET, "0000000000aa", 0, ("web", "localhost", "", "web")).names == ("web",)


def test_the_address_that_an_interface_gives_itself_is_known() -> None:
    assert members.link_local(bytes.fromhex("02149fca1535")) == "fe80::14:9fff:feca:1535"  # as Linux 6.18 did
