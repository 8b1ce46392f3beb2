"""The Executor and its containers. What does not need containers to be tested is in tests/unit/test_executor_calls.py."""

from __future__ import annotations

import concurrent.futures as cf
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cloudpickle  # type: ignore[import-untyped]
import pytest
from harness import CONTROLLERS, PURE_V2, children, eventually

import pybox
from pybox import dirs, listing, state

PYTHON = os.path.realpath(sys.executable)  # without the virtualenv it starts faster


@pytest.fixture(autouse=True)
def by_value() -> Iterator[None]:
    """No worker has to import this module."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def executor(workers: int = 1, **options: object) -> pybox.Executor:
    """Return an Executor on the host's own Python."""
    return pybox.Executor("host", workers, **{"python": PYTHON, **options})  # type: ignore[arg-type]


def hostname() -> str:
    return os.uname().nodename


def test_workers_are_containers_and_are_used_again() -> None:
    with executor(2) as pool:
        names = set(pool.map(lambda _: hostname(), range(40)))
        assert 1 <= len(names) <= 2 and hostname() not in names
        assert pool.submit(os.getuid).result() == 0
        assert pool.submit(lambda: os.listdir("/sys/class/net")).result() == ["lo"]


def test_each_call_has_a_fresh_container_when_that_is_asked_for() -> None:
    def leave_a_trace() -> tuple[str, bool]:
        known = os.path.exists("/var/tmp/trace")
        os.mkdir("/var/tmp/trace")
        return hostname(), known

    with executor(2, isolation="call") as pool:
        seen = [future.result() for future in [pool.submit(leave_a_trace) for _ in range(5)]]
        assert len({name for name, _ in seen}) == 5 and not any(known for _, known in seen)


@pytest.mark.skipif("memory" not in CONTROLLERS, reason="no memory controller")
def test_out_of_memory_fails_its_call_alone() -> None:
    with executor(memory="64M") as pool:
        futures = [pool.submit(lambda n: len(bytearray(n << 20)), n) for n in (1, 500, 2)]
        error = futures[1].exception()
        assert isinstance(error, pybox.OutOfMemory) and error.result.reason == "oom" and error.result.memory_peak
        assert [futures[n].result() for n in (0, 2)] == [1 << 20, 2 << 20]


def test_a_crash_a_timeout_and_a_cancel_leave_the_others_alone() -> None:
    def crash() -> None:
        import ctypes

        ctypes.string_at(0)

    with executor(timeout=1000) as pool:
        futures = [pool.submit(crash) if n % 5 == 2 else pool.submit(abs, -n) for n in range(10)]
        errors = {n: future.exception() for n, future in enumerate(futures) if future.exception()}
        assert set(errors) == {2, 7}
        assert isinstance(errors[7], pybox.WorkerDied) and errors[7].result.signal == signal.SIGSEGV
        sleeping, waiting = pool.submit(signal.pause), pool.submit(abs, -1)
        assert eventually(sleeping.running) and sleeping.cancel()
        assert waiting.result() == 1
        assert cf.wait([sleeping]).done and sleeping.cancelled()
    with executor(timeout=0.2) as pool:
        error = pool.submit(signal.pause).exception()
        assert isinstance(error, pybox.CallTimeout) and error.result.reason == "timeout"


def test_a_hundred_megabytes_pass_in_both_directions() -> None:
    with executor() as pool:
        # User Mode Linux kills a process of more than 65530 pages: each is a mapping of the host's
        value = bytes(20_000_000 if PURE_V2 else 100_000_000)
        assert pool.submit(lambda value: value, value).result() == value


def test_what_a_call_prints_comes_line_by_line() -> None:
    lines: list[bytes] = []
    there = threading.Event()

    def hear(line: bytes) -> None:
        lines.append(line)
        if line == b"two\n":
            there.set()

    def say() -> None:
        print("one\ntwo")
        signal.pause()

    with executor(stdout=hear) as pool:
        pool.submit(say)
        assert there.wait(60)  # while the call goes on
        pool.kill_workers()
    assert lines == [b"one\n", b"two\n"]


def test_commands_run_beside_the_calls() -> None:
    with executor(2) as pool:
        done = pool.submit_cmd(["sh", "-c", "cat; echo no >&2; exit 3"], image="busybox", input=b"x" * 300_000).result()
        assert (done.exit_code, done.stdout, done.stderr) == (3, b"x" * 300_000, b"no\n")
        bad = pool.submit_cmd(["false"], image="busybox", check=True)
        assert isinstance(bad.exception(), pybox.JobError)
        assert isinstance(pool.submit_cmd(["nosuch"], image="busybox").exception(), pybox.ProgramNotFound)
        late = pool.submit_cmd(["sleep", "1000"], image="busybox", timeout=0.1).result()
        assert late.reason == "timeout"
        many = [pool.submit_cmd(["sh", "-c", f"exit {n}"], image="busybox") for n in range(8)]
        assert [future.result().exit_code for future in many] == list(range(8))
        slow = pool.submit_cmd(["sleep", "1000"], image="busybox")
        assert eventually(slow.running) and slow.cancel() and cf.wait([slow]).done and slow.cancelled()


def test_an_image_without_python_is_refused_with_the_fix() -> None:
    with pytest.raises(pybox.ProgramNotFound, match="python3") as caught:
        pybox.Executor("busybox")
    assert "python=" in str(caught.value.hint)
    with pytest.raises(pybox.ImageNotFound):
        pybox.Executor("nosuch")


def test_read_only_roots_other_users_and_no_init_work() -> None:
    for options in ({"read_only": True}, {"user": "65534"}, {"init": False}):
        with executor(**options) as pool:
            assert pool.submit(os.getuid).result() == int(str(options.get("user", 0)))


PROGRAM = """
import os, signal, sys, pybox
def sleep():
    print('begun', flush=True)
    signal.pause()
try:
    with pybox.Executor('host', 2, python=%r) as pool:
        for _ in range(8): pool.submit(sleep)
        signal.pause()
except KeyboardInterrupt:
    print('interrupted', flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_program_that_is_ended(store: dirs.Dirs, number: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM % PYTHON], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert [process.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
    process.send_signal(number)
    rest = process.communicate(timeout=60)[0]
    assert (process.returncode, rest) == ((0, "interrupted\n") if number == signal.SIGINT else (-9, ""))
    assert eventually(lambda: not any(entry.alive for entry in listing.entries(store)))
    state.sweep(store)


def test_an_exit_with_pending_work_does_it_first(tmp_path: Path) -> None:
    program = (
        "import pybox, os, pathlib\n"
        f"pool = pybox.Executor('host', 2, python={PYTHON!r}, mounts={{{str(tmp_path)!r}: '/mnt'}})\n"
        "for n in range(6): pool.submit(pathlib.Path('/mnt', str(n)).touch)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert sorted(os.listdir(tmp_path)) == list("012345")


def test_thousands_of_calls_and_many_workers_leave_neither_fds_nor_children() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with executor(2) as pool:
        assert list(pool.map(abs, range(3000))) == list(range(3000))
        for _ in range(10):
            assert isinstance(pool.submit(os._exit, 1).exception(), pybox.WorkerDied)
    assert len(os.listdir("/proc/self/fd")) <= before + 2 and all(was != "Z" for was in children().values())


@pytest.mark.skipif("memory" not in CONTROLLERS, reason="no memory controller")
def test_the_examples_of_the_document_run(capfd: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "executor.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.S)
    space: dict[str, object] = {"__name__": "__main__"}
    for example in examples:
        exec(example.replace('"python"', f'"host", python={PYTHON!r}'), space)
    said = capfd.readouterr().out
    assert len(examples) == 3 and "hello" in said and "OutOfMemory(" in said and "WorkerDied(" in said and "{'words': 4}" in said
