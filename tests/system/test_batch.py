"""pybox batch: what is in the file is run, once, in its order; what is finished is never lost; nothing stays behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
from harness import cli, eventually, start
from person import Person

from pybox import dirs, listing, state

ROOT = Path(__file__).resolve().parents[2]
NEEDS = """
[defaults]
image = "busybox"
volumes = ["{folder}:/t"]
[[job]]
name = "first"
command = "echo first >>/t/log"
[[job]]
name = "part"
array = 4
needs = ["first"]
env = {{ N = "{{i}}" }}
command = "test {{i}} != 2 || test -e /t/good || {{{{ echo bad luck >&2; exit 3; }}}}; echo part $N >>/t/log"
[[job]]
name = "one"
needs = ["part[1]"]
command = "echo one >>/t/log"
[[job]]
name = "all"
needs = ["part"]
command = "echo all >>/t/log"
[[job]]
name = "end"
needs = ["all", "one"]
command = "echo end >>/t/log"
"""


def rows(out: Path) -> dict[str, dict[str, object]]:
    """Return the last result of each job by name."""
    found = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return {row["name"]: row for row in found}


@pytest.fixture
def needs(tmp_path: Path) -> str:
    """A file of jobs that need each other; one fails unless there is a file called good."""
    (tmp_path / "t").mkdir()
    (tmp_path / "jobs.toml").write_text(NEEDS.format(folder=tmp_path / "t"))
    return str(tmp_path / "jobs.toml")


def test_jobs_run_when_what_they_need_has_ended_well_and_resume_runs_the_rest(needs: str, tmp_path: Path) -> None:
    out, log, page = tmp_path / "out", tmp_path / "t/log", tmp_path / "report.html"
    done = cli("batch", needs, "-o", str(out), "--report", str(page))
    assert (done.returncode, done.stdout) == (1, "")
    assert "part[2]: exit status 3\n" in done.stderr and "8 jobs: 5 ok, 1 failed, 2 skipped" in done.stderr
    assert re.search(r"^part\[2\] +exit status 3 +bad luck$", done.stderr, re.M)
    assert rows(out)["end"]["reason"] == "skipped" and "part[2], which it needs" in str(rows(out)["end"]["error"])
    lines = log.read_text().splitlines()
    assert lines[0] == "first" and set(lines[1:]) == {"part 0", "part 1", "part 3", "one"}
    assert lines.index("one") > lines.index("part 1") and "bad luck" in page.read_text()
    assert (out / "3.stderr").read_text() == "bad luck\n"

    again = cli("batch", needs, "-o", str(out))
    assert again.returncode == 125 and "--resume goes on" in again.stderr
    (tmp_path / "t/good").touch()
    log.write_text("")
    done = cli("batch", "--resume", needs, "-o", str(out))
    assert done.returncode == 0 and "5 of 8 jobs have ended well; again: 3, not yet run: 0" in done.stderr
    assert log.read_text().splitlines() == ["part 2", "all", "end"]
    assert "8 jobs: 8 ok (5 of them before)" in done.stderr and all(row["exit_code"] == 0 for row in rows(out).values())


def test_a_bad_file_or_a_foreign_directory_is_refused_before_anything_runs(needs: str, tmp_path: Path) -> None:
    Path(needs).write_text(Path(needs).read_text() + '[[job]]\nmemory = "1X"\n')
    done = cli("batch", needs, "-o", str(tmp_path / "out"))
    assert done.returncode == 125 and re.match(r"pybox: error: /\S+:27:1: memory: '1X': not a size", done.stderr)
    assert not (tmp_path / "out").exists() and not (tmp_path / "t/log").exists()
    for lines in ('{"image": "busybox", "args": ["true"]}', '{"image": "busybox", "args": ["false"]}'):
        done = cli("batch", "-q", "-", "-o", str(tmp_path / "out"), "--resume", input=lines.encode())
    assert (done.returncode, done.stdout) == (125, "") and "belongs to another batch" in done.stderr
    done = cli("batch", "-q", "-", "-o", str(tmp_path), input=lines.encode())
    assert done.returncode == 125 and "something else" in done.stderr


def test_output_is_passed_on_and_jobs_do_not_read_the_list(tmp_path: Path) -> None:
    table = "word,code\na b,0\n$(id),3\n"
    words = ("batch", "-", "--format", "csv", "--image", "busybox", "-e", "W={word}", "--retries", "1", "-q")
    done = cli(*words, "--command", 'cat; echo {word} "$W"; exit {code}', input=table.encode())
    assert done.returncode == 1 and sorted(done.stdout.splitlines()) == ["$(id) $(id)", "a b a b"]


def test_retries_run_a_job_again_and_keep_its_last_output(tmp_path: Path) -> None:
    script = "echo x >>/t/n; wc -l </t/n; test $(wc -l </t/n) -ge 3"
    job = {"image": "busybox", "command": script, "mounts": [f"{tmp_path}:/t"], "name": "it"}
    done = cli("batch", "-", "-o", str(tmp_path / "out"), "--retries", "5", input=json.dumps(job).encode())
    assert done.returncode == 0 and rows(tmp_path / "out")["it"]["attempts"] == 3
    assert (tmp_path / "out/0.stdout").read_text() == "3\n"


SLOW = (
    '{"image": "busybox", "command": "echo N; test N -lt 4 || test -e /t/good || sleep 1000", "mounts": ["T:/t"], "name": "jN"}\n'
)


def slow(folder: Path) -> str:
    """Write nine jobs, of which five do not end before there is a file called good."""
    path = folder / "slow.jsonl"
    path.write_text("".join(SLOW.replace("N", str(n)).replace("T", str(folder)) for n in range(9)))
    return str(path)


def test_a_kill_loses_no_finished_result(store: dirs.Dirs, tmp_path: Path) -> None:
    words, out = ("batch", slow(tmp_path), "-o", str(tmp_path / "out"), "-j", "3"), tmp_path / "out"
    with start(*words, stderr=subprocess.DEVNULL) as process:
        assert eventually(lambda: (out / "6.stdout").exists() and (out / "results.jsonl").read_bytes().count(b"\n") == 4)
        process.kill()
    with open(out / "results.jsonl", "a") as file:
        file.write('{"key": "cut of')
    assert eventually(lambda: not any(entry.status == "running" for entry in listing.entries(store)))
    (tmp_path / "good").touch()
    done = cli(*words, "--resume")
    assert done.returncode == 0 and "4 of 9 jobs have ended well; again: 0, not yet run: 5" in done.stderr
    numbers = sorted(json.loads(line)["index"] for line in (out / "results.jsonl").read_text().splitlines())
    assert numbers == list(range(9)) and all((out / f"{n}.stdout").read_text() == f"{n}\n" for n in range(9))
    state.sweep(store)


def test_an_interrupt_stops_it_cleanly_and_says_how_to_go_on(store: dirs.Dirs, tmp_path: Path) -> None:
    words, out = ("batch", slow(tmp_path), "-o", str(tmp_path / "out"), "-j", "3"), tmp_path / "out"
    with start(*words, stderr=subprocess.PIPE) as process:
        assert eventually(lambda: (out / "6.stdout").exists() and (out / "results.jsonl").read_bytes().count(b"\n") == 4)
        assert eventually(lambda: sum(entry.status == "running" for entry in listing.entries(store)) == 3)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130 and not any(entry.alive for entry in listing.entries(store))
    assert "9 jobs: 4 ok, 3 cancelled, 2 not run" in said
    assert said.splitlines()[-1] == f"interrupted; to go on: pybox batch --resume {' '.join(words[1:])}"
    assert sorted(name for name, row in rows(out).items() if row["reason"] == "cancelled") == ["j4", "j5", "j6"]
    (tmp_path / "good").touch()
    assert "again: 3, not yet run: 2" in cli("batch", "--resume", *words[1:]).stderr


def test_a_terminal_sees_a_line_that_moves_and_ctrl_c_twice_ends_it_at_once(
    store: dirs.Dirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")  # a dumb one gets plain lines
    with Person("batch", slow(tmp_path), "-j", "3", columns=120) as person:
        person.expect("4/9 done")
        person.expect("3 running")
        assert eventually(lambda: sum(entry.status == "running" for entry in listing.entries(store)) == 3)
        person.type("\x03\x03")
        assert person.end() == 130
    assert eventually(lambda: not any(entry.status == "running" for entry in listing.entries(store)))
    state.sweep(store)


def test_the_example_of_the_document_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs/batch.md").read_text()
    (tmp_path / "jobs.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    (tmp_path / "data").mkdir()
    done = cli("batch", "jobs.toml", "-o", "results", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/4.stdout").read_text() == "18\n12\n15\n"
