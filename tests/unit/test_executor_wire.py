"""What passes between an Executor and its workers: a worker that lies or dies is no danger, and says its Python first."""

# ruff: noqa: F811

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_executor_calls import double, pool  # noqa: F401

import pybox
from pybox.executor import ship, wire
from pybox.executor.errors import CallTimeout, OutOfMemory, death
from pybox.result import Result, verdict


def test_large_values_pass_in_both_directions(pool: Callable[..., pybox.Executor]) -> None:
    with pool(2) as executor:
        for size in (wire.CHUNK - 1, wire.CHUNK, wire.CHUNK * 3 + 5, 30_000_000):
            value = os.urandom(16) * (size // 16)
            assert executor.submit(lambda value: value + b"!", value).result() == value + b"!"


def test_json_runs_nothing_here(pool: Callable[..., pybox.Executor], tmp_path: Path) -> None:
    class Evil(Exception):
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "evil"),)

    def evil(throw: bool) -> object:
        if throw:
            raise Evil("bad")
        return Evil()

    with pool(results="json") as executor:
        assert executor.submit(lambda: {"a": [1, 2.5, None, (True, "x")]}).result() == {"a": [1, 2.5, None, [True, "x"]]}
        assert executor.submit(lambda: {1}).exception().args == ("TypeError: Object of type set is not JSON serializable",)  # type: ignore[union-attr]
        thrown = executor.submit(evil, True).exception()
        assert isinstance(thrown, pybox.RemoteError) and thrown.type_name.endswith("Evil") and thrown.message.endswith(": bad")
        assert isinstance(executor.submit(evil, False).exception(), pybox.RemoteError)
        assert not (tmp_path / "evil").exists()
    with pool() as executor:  # and this is why
        executor.submit(evil, False).result()
        assert (tmp_path / "evil").exists()


ASKED = (0x1122334455667788).to_bytes(8, sys.byteorder)  # stands for the number of the call
NUMBER = int.from_bytes(ASKED, sys.byteorder)


def _answer(reply: bytes) -> None:
    """Say something to the owner of this worker that it has not asked for."""
    call: int = sys._getframe(1).f_locals["call"]
    for fd in range(3, 20):
        try:
            os.write(fd, reply.replace(ASKED, call.to_bytes(8, sys.byteorder)))
        except OSError:
            pass
    time.sleep(1000)


LIES = {
    wire.REPLY.pack(wire.VALUE, 9999, 0): "has answered what it was not asked",
    wire.REPLY.pack(77, NUMBER, 0): "has answered what it was not asked",
    b"x": "a reply without a head",
    wire.REPLY.pack(wire.VALUE, NUMBER, 1) + b"xx": "a reply has the wrong length",
    wire.REPLY.pack(wire.VALUE, NUMBER, 1 << 60): "a result of 1152921504606846976 bytes",
    wire.REPLY.pack(wire.RAISED, NUMBER, 1) + b"x": "an exception without a head",
    wire.REPLY.pack(wire.RAISED, NUMBER, 12) + wire.ERROR.pack(1 << 31, 1, 1): "an exception has the wrong length",
}


def test_a_worker_that_lies_is_killed(pool: Callable[..., pybox.Executor]) -> None:
    with pool(2, results="json") as executor:
        for reply, why in LIES.items():
            error = executor.submit(_answer, reply).exception(timeout=60)
            assert isinstance(error, pybox.WorkerDied) and "the worker was killed: " in str(error) and why in str(error)
        assert executor.submit(double, 1).result() == 2


def test_a_result_has_a_limit(pool: Callable[..., pybox.Executor]) -> None:
    with pool(max_result="100K") as executor:
        assert len(executor.submit(bytes, 90_000).result()) == 90_000
        with pytest.raises(pybox.WorkerDied, match="max_result"):
            executor.submit(bytes, 110_000).result()


# --- the wire ----------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 3), st.binary(max_size=100), st.integers(0, 3))
def test_replies_survive_being_cut(whole: int, rest: bytes, kind: int) -> None:
    body = b"y" * (whole * wire.CHUNK) + rest
    inbound = wire.Inbound(1 << 30)
    found = [inbound.feed(bytes(part)) for part in wire.messages(wire.REPLY.pack(kind, 5, len(body)), body)]
    assert found[:-1] == [None] * (len(found) - 1) and found[-1] == (kind, 5, body)


@given(st.lists(st.binary(max_size=64)))
def test_no_message_is_worse_than_broken(messages: list[bytes]) -> None:
    inbound = wire.Inbound(1000)
    try:
        for message in messages:
            inbound.feed(message)
            wire.parse_error(message)
    except wire.Broken:
        pass


def test_the_ends_of_workers_have_types() -> None:
    def ended(status: int, timed_out: bool = False, oom: int = 0) -> pybox.WorkerDied:
        reason, code, number = verdict(status, timed_out, oom)
        return death(Result("id", "image", (), reason, code, number))

    assert type(ended(9, oom=1)) is OutOfMemory and type(ended(9, timed_out=True)) is CallTimeout
    assert str(ended(11)) == "the worker died in the call: signal 11 ended it"


def test_a_worker_says_its_python_first() -> None:
    ship.check_hello("image", f"{sys.implementation.cache_tag} 3.1".encode())
    for lie in (b"", b"\xff\xfe", b"cpython-27 2.7", b"x " * 500):
        with pytest.raises(pybox.WorkerFailed):
            ship.check_hello("image", lie)
