"""run_many: jobs by the thousand. Nothing is promised twice, nothing is lost, nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import children, eventually

import pybox
from pybox import Job, Result, dirs, listing, native, run_many, state
from pybox.jobs.budget import Need
from pybox.jobs.many import Crew


def echo(number: int, **options: object) -> Job:
    """Return a job that says its number."""
    return Job("busybox", ["echo", str(number)], name=f"j{number}", **options)  # type: ignore[arg-type]


def test_all_jobs_are_run_once_and_tell_which_they_are() -> None:
    results = sorted(run_many(map(echo, range(60))), key=lambda result: result.index or 0)
    assert [(r.index, r.name, r.stdout) for r in results] == [(n, f"j{n}", f"{n}\n".encode()) for n in range(60)]


def test_order_is_kept_when_it_is_asked_for() -> None:
    jobs = [Job("busybox", ["sh", "-c", f"sleep 0.{(5 - n % 5)}; echo {n}"]) for n in range(20)]
    assert [result.index for result in run_many(jobs, order=True, parallel=8)] == list(range(20))


def test_one_bad_job_does_not_stop_the_others() -> None:
    jobs = [echo(0), Job("nosuch", ["true"]), Job("busybox", ["nosuch"]), Job("busybox", ["false"]), echo(4)]
    found = {result.index: result for result in run_many(jobs)}
    assert [found[n].reason for n in range(5)] == ["exit", "launch-failed", "launch-failed", "exit", "exit"]
    assert [found[n].exit_code for n in range(5)] == [0, 125, 127, 1, 0]
    assert found[1].error == "no image nosuch"


def test_what_runs_at_once_never_promises_more_than_there_is(tmp_path: Path) -> None:
    script = "echo + >>/t/log; sleep 0.05; echo - >>/t/log"
    jobs = [Job("busybox", ["sh", "-c", script], memory="64M", mounts={str(tmp_path): "/t"}) for _ in range(12)]
    assert all(result.ok for result in run_many(jobs, parallel=8, memory="130M"))
    running = most = 0
    for line in (tmp_path / "log").read_text().split():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert most == 2


def test_as_many_as_was_said_run_at_once(tmp_path: Path) -> None:
    script = "touch /t/$1; until [ $(ls /t | wc -l) -eq 20 ]; do sleep 0.02; done"  # nobody ends before all are there
    jobs = (Job("busybox", ["sh", "-c", script, "sh", str(n)], mounts={str(tmp_path): "/t"}, timeout=30) for n in range(20))
    assert all(result.ok for result in run_many(jobs, parallel=20))


def test_who_is_given_up_before_it_began_never_begins() -> None:
    crew = Crew(8)
    crew.cancel()
    crew.give(3, echo(3), Need(), 0)
    _, _, _, result = crew.take()
    crew.dismiss()
    assert isinstance(result, Result) and (result.reason, result.index, result.attempts) == ("cancelled", 3, 0)


def test_a_job_that_can_never_fit_fails_at_once() -> None:
    (result,) = run_many([Job("busybox", ["true"], memory="1G")], memory="512M")
    assert result.reason == "launch-failed" and "wants 1073741824 bytes of memory" in (result.error or "")


def test_a_generator_is_read_no_faster_than_jobs_are_admitted() -> None:
    read = 0

    def endless() -> Iterator[Job]:
        nonlocal read
        while True:
            read += 1
            yield echo(read)

    results = run_many(endless(), parallel=4)
    for _ in range(10):
        next(results)
    results.close()  # type: ignore[attr-defined]
    assert read <= 20


def test_leaving_the_loop_kills_what_still_runs() -> None:
    for _ in run_many([echo(0), *(Job("busybox", ["sleep", "1000"]) for _ in range(3))], parallel=4):
        break
    assert not any(entry.alive for entry in listing.entries(dirs.current()))


def test_a_job_is_tried_again_as_often_as_was_said(tmp_path: Path) -> None:
    script = "echo x >>/t/count; test $(wc -l </t/count) -ge 3"
    job = Job("busybox", ["sh", "-c", script], mounts={str(tmp_path): "/t"})
    (result,) = run_many([job], retries=5)
    assert result.ok and result.attempts == 3
    (result,) = run_many([Job("busybox", ["false"], retries=1)], retries=9)
    assert (result.exit_code, result.attempts) == (1, 2)


def test_finished_results_are_on_disk_before_anybody_hears_of_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for result in run_many(map(echo, range(5)), out=out):
        assert f'"index": {result.index},' in (out / "results.jsonl").read_text()
        assert (out / f"{result.index}.stdout").read_bytes() == result.stdout


def test_resume_runs_what_has_not_ended_with_0_and_nothing_twice(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = "echo x >>/t/$N; test -e /t/good || test $N != 2"
    jobs = [Job("busybox", ["sh", "-c", script], env={"N": str(n)}, mounts={str(tmp_path): "/t"}) for n in range(4)]
    assert sorted(r.exit_code for r in run_many(jobs, out=out)) == [0, 0, 0, 1]
    (tmp_path / "good").touch()
    with pytest.raises(pybox.StateError, match="holds results already"):
        run_many(jobs, out=out)
    again = {r.index: r for r in run_many(jobs, out=out, resume=True)}
    assert all(r.ok for r in again.values()) and len(again) == 4
    assert [len((tmp_path / str(n)).read_text().split()) for n in range(4)] == [1, 1, 2, 1]


def test_a_directory_of_another_batch_is_refused(tmp_path: Path) -> None:
    list(run_many([echo(1)], out=tmp_path / "out"))
    with pytest.raises(pybox.StateError, match="belongs to another batch"):
        list(run_many([echo(2)], out=tmp_path / "out", resume=True))


def test_a_kill_loses_no_finished_result(store: dirs.Dirs, tmp_path: Path) -> None:
    program = (
        "import sys, pybox\n"
        "jobs = [pybox.Job('busybox', ['sh', '-c', f'echo {n}; test {n} -lt 5 || sleep 1000']) for n in range(9)]\n"
        f"for r in pybox.run_many(jobs, parallel=3, out={str(tmp_path / 'out')!r}): print(r.index, flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    told = {int(process.stdout.readline()) for _ in range(5)}
    with open(tmp_path / "out" / "results.jsonl", "a") as file:
        file.write('{"key": "cut of')
    process.kill()
    process.communicate()
    jobs = [Job("busybox", ["sh", "-c", f"echo {n}; test {n} -lt 5 || sleep 1000"]) for n in range(9)]
    known = {}
    for result in run_many(jobs[:5], out=tmp_path / "out", resume=True):
        known[result.index] = result
    assert told == set(known) == set(range(5)) and all(r.ok and r.stdout == f"{n}\n".encode() for n, r in known.items())
    assert eventually(lambda: not any(entry.status == "running" for entry in listing.entries(store)))
    state.sweep(store)


def test_a_keyboard_interrupt_ends_everything(store: dirs.Dirs) -> None:
    program = (
        "import pybox\n"
        "try:\n"
        "    for r in pybox.run_many([pybox.Job('busybox', ['sleep', '1000'])] * 4, parallel=4): pass\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert eventually(lambda: sum(entry.status == "running" for entry in listing.entries(store)) == 4)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "interrupted\n"
    assert not any(entry.alive for entry in listing.entries(store))


def test_thousands_of_jobs_leave_neither_fds_nor_children() -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert all(result.ok for result in run_many((Job("busybox", ["true"]) for _ in range(300)), parallel=16))
    native.forget_networks()
    assert len(os.listdir("/proc/self/fd")) <= before + 2 and all(state != "Z" for state in children().values())
