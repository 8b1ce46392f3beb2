"""What may be asked of a network is read or refused with one line; nothing here touches a host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybox import netspec
from pybox.errors import SpecError
from pybox.netspec import Allowed, Port
from pybox.spec import Net, Spec


@pytest.mark.parametrize(
    ("word", "ports"),
    [
        ("8080:80", (Port("", 8080, 80),)),
        ("80", (Port("", 0, 80),)),
        ("53:53/udp", (Port("", 53, 53, "udp"),)),
        ("127.0.0.1:8080:80", (Port("127.0.0.1", 8080, 80),)),
        ("127.0.0.1::80", (Port("127.0.0.1", 0, 80),)),
        ("0.0.0.0:8080:80", (Port("", 8080, 80),)),
        ("[::1]:8080:80/tcp", (Port("::1", 8080, 80),)),
        ("8000-8001:80-81", (Port("", 8000, 80), Port("", 8001, 81))),
    ],
)
def test_a_published_port_is_read(word: str, ports: tuple[Port, ...]) -> None:
    assert netspec.parse_port(word) == ports


@pytest.mark.parametrize(
    "word",
    [
        "",
        "0",
        "65536",
        "a:80",
        "80:a",
        "1.2.3:80:80",
        "[::1:80:80",
        "80:80/sctp",
        "80-70",
        "80-81:80",
        "1-9999",
        "x:1:2:3",
        "٣:80",
    ],
)
def test_what_is_no_port_is_refused(word: str) -> None:
    with pytest.raises(SpecError, match="publish"):
        netspec.parse_port(word)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(word: str) -> None:
    for parse in (netspec.parse_port, netspec.parse_allowed, netspec.parse_host, netspec.parse_mac):
        try:
            parse(word)
        except SpecError as error:
            assert "\n" not in error.message
    try:
        netspec.parse_subnet("subnet", word)
        netspec.parse_rate("net-rate", word)
    except SpecError as error:
        assert "\n" not in error.message


def test_an_allow_list_is_read() -> None:
    assert netspec.parse_allowed("pypi.org:443,10.0.0.0/8,1.1.1.1:53,[fd00::1]:80-81,fd00::/64") == (
        Allowed("pypi.org", 443, 443),
        Allowed("10.0.0.0/8"),
        Allowed("1.1.1.1", 53, 53),
        Allowed("fd00::1", 80, 81),
        Allowed("fd00::/64"),
    )
    assert netspec.parse_allowed("none") == ()


@pytest.mark.parametrize("word", ["", "1.2.3", "10.0.0.1/8", "a b", "x:0", "x:99999", "{ accept }", 'x" drop'])
def test_what_is_no_destination_is_refused(word: str) -> None:
    with pytest.raises(SpecError, match="allow-net"):
        netspec.parse_allowed(word)


def test_rates_are_bits_a_second() -> None:
    assert [netspec.parse_rate("net-rate", word) for word in ("8000", "10m", "1.5gbit", "500K")] == [
        8000,
        10**7,
        15 * 10**8,
        500_000,
    ]


@pytest.mark.parametrize(
    ("network", "net"),
    [
        ("none", Net(ports=("80:80",))),
        ("host", Net(allow=("none",))),
        ("host", Net(dns=("1.1.1.1",))),
        ("a,a", Net()),
        ("bridge", Net()),
        ("", Net()),
        ("../x", Net()),
        ("container:", Net()),
        ("container:x", Net(ports=("80",))),
        ("pybox", Net(ip=("10.0.0.1", "10.0.0.2"))),
        ("pybox", Net(ip=("x",))),
        ("pybox", Net(mac="01:00:00:00:00:00")),
        ("pybox", Net(rate=1)),
        ("pybox", Net(ports=("80:80", "80:81"))),
        ("pybox", Net(hosts=("a b:1.2.3.4",))),
    ],
)
def test_a_spec_refuses_what_can_not_be_meant(network: str, net: Net) -> None:
    with pytest.raises(SpecError):
        Spec("x", network=network, net=net)


def test_a_spec_with_a_network_survives_its_journal() -> None:
    from pybox.specjson import from_json, to_json

    spec = Spec("x", network="pybox,other", net=Net(ports=("8080:80",), allow=("a:1",), rate=9000, publish_all=True))
    assert from_json(to_json(spec)) == spec


def test_a_network_namespace_with_an_interface_is_never_given_to_the_next_container() -> None:
    from test_plan import inputs

    from pybox.kernel.namespaces import returns_network

    assert returns_network(inputs(Spec("x")))
    assert not returns_network(inputs(Spec("x", network="pybox")))
