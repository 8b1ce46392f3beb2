"""A network namespace is one container's at a time, and a next one's only where nobody could tell."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import said, shell

from pybox import native

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's are made beforehand")

WHO = "readlink /proc/self/ns/net"


def test_a_program_that_runs_one_job_after_the_other_uses_one_again() -> None:
    assert len({said(shell(WHO)) for _ in range(5)}) == 1


def test_the_host_s_is_not_among_them() -> None:
    assert os.readlink("/proc/self/ns/net") not in {said(shell(WHO)).strip() for _ in range(3)}


@pytest.fixture
def given_back(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each namespace that a run gave back: whether it is one for the next."""
    kept = []

    def record(socket: int) -> None:
        inode = os.fstat(socket).st_ino
        really(socket)
        kept.append(any(_inode(fd) == inode for fd in os.listdir("/proc/self/fd")))

    really = native.return_network
    monkeypatch.setattr(native, "return_network", record)
    return kept


def _inode(fd: str) -> int:
    try:
        return os.stat(f"/proc/self/fd/{fd}").st_ino
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("script", ["nc -l -p 80 & sleep 0.1; echo | nc 127.0.0.1 80", "nc 127.0.0.1 1"])
def test_one_in_which_something_was_sent_is_nobody_s_any_more(script: str, given_back: list[bool]) -> None:
    shell(f"({script}) >/dev/null 2>&1; ! grep 'lo: *0 ' /proc/net/dev").check()
    shell("true")
    assert given_back == [False, True]


@pytest.mark.parametrize(
    "options",
    [
        {"cap_add": ["NET_ADMIN"]},
        {"cap_add": ["NET_RAW"]},
        {"cap_add": ["SYS_ADMIN"]},
        {"mounts": ["/usr:/host:ro"]},
        {"pid": "host"},
        {"network": "host"},
        {"userns": True},
    ],
    ids=str,
)
def test_one_that_could_have_been_changed_or_have_a_way_out_is_nobody_s_any_more(
    options: dict[str, object], given_back: list[bool]
) -> None:
    shell("true", **options).check()
    assert given_back == []


def test_what_runs_at_the_same_time_never_shares_one() -> None:
    script = f"{WHO}; sleep 0.05"
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            assert len({said(result) for result in pool.map(shell, [script] * 8)}) == 8


def test_the_next_one_finds_nothing_of_the_one_before() -> None:
    look = "cat /proc/net/dev /proc/net/tcp /proc/net/udp /proc/net/unix /proc/net/route /proc/net/arp"
    fresh = said(shell(look, cap_add=["NET_RAW"]))  # one that nobody had
    shell("nc -l -p 4711 & nc -u -l -p 4712 & sleep 0.05")  # two sockets that hear nothing
    assert said(shell(look)) == fresh


def test_no_fd_of_them_grows() -> None:
    shell("true")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        shell("true")
    assert len(os.listdir("/proc/self/fd")) <= before + 1
