"""Doctor's reports, its command line, its trials: whatever stumbles is told as a finding."""

from __future__ import annotations

import errno
import json
import os
import signal

import pytest

from pybox.cli import doctor as cli
from pybox.dirs import Dirs
from pybox.doctor import examine, tried, without
from pybox.doctor.item import Item, Report
from pybox.doctor.session import Settings, plain_user
from pybox.doctor.table import PROBES, Probe
from pybox.doctor.trial import Outcome, attempt
from pybox.errors import LimitError, SpecError

FINE = Settings(max_userns="100000", program="/usr/bin/python3")
USERNS = "unshare(CLONE_NEWUSER)"


def refused(call: str, number: int) -> Outcome:
    return Outcome(call=call, errno=number)


# --- items and reports -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["warn", "fail"])
def test_a_complaint_without_a_way_out_can_not_be_made(level: str) -> None:
    with pytest.raises(ValueError, match="needs lost and fix"):
        Item("x", "x", level, "tried", "happened", lost="something")  # type: ignore[arg-type]


def test_only_a_failure_that_blocks_the_purpose_makes_the_host_unusable() -> None:
    harmless = Item("limits", "limits", "fail", "t", "h", "l", "f")
    rootless = Item("userns", "userns", "fail", "t", "h", "l", "f", ("rootless",))
    warned = Item("psi", "psi", "warn", "t", "h", "l", "f", ("run",))
    assert Report((harmless, rootless, warned), "run").usable
    assert not Report((harmless, rootless, warned), "rootless").usable
    assert not Report((harmless,), "run", single=True).usable  # a re-check is about that item


def test_json_and_text_say_the_same() -> None:
    item = Item("psi", "stall accounting", "warn", "read a file", "it was not there", "numbers", "psi=1", details=(("a", "b"),))
    report = Report((item,), "run")
    shown = report.to_json()
    assert json.loads(json.dumps(shown)) == {
        "schema": "pybox.doctor/1",
        "usable": True,
        "for": "run",
        "items": [
            {
                "id": "psi",
                "title": "stall accounting",
                "level": "warn",
                "tried": "read a file",
                "happened": "it was not there",
                "you_lose": "numbers",
                "fix": "psi=1",
                "recheck": "pybox doctor psi",
                "blocks": [],
                "details": {"a": "b"},
            }
        ],
    }
    assert list(cli.lines(report)) == [
        " ! stall accounting  it was not there",
        "     you lose   numbers",
        "     fix        psi=1",
        "     re-check   pybox doctor psi",
        "Result: `pybox run` works here; with losses: psi",
    ]


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (Report((Item("a", "a", "ok", "t", "h"),), "run"), "Result: `pybox run` works here"),
        (
            Report((Item("a", "a", "fail", "t", "h", "l", "f", ("rootless",)),), "rootless"),
            "Result: `pybox run` does not work here for plain users; in the way: a",
        ),
        (Report((Item("a", "a", "ok", "t", "h"),), "run", True), "Result: a: nothing to mend"),
        (Report((Item("a", "a", "warn", "t", "h", "l", "f"),), "run", True), "Result: a: works, with the loss above"),
        (Report((Item("a", "a", "fail", "t", "h", "l", "f"),), "run", True), "Result: a: not working"),
    ],
)
def test_the_last_line_is_the_verdict(report: Report, verdict: str) -> None:
    assert list(cli.lines(report))[-1] == verdict


def test_marks_become_words_where_the_terminal_has_no_unicode() -> None:
    assert cli._printable(" ✓ a  b ✗", "latin-1") == " ok a  b FAIL"
    assert cli._printable(" ✓ a", "utf-8") == " ✓ a"


# --- the command -------------------------------------------------------------------------------------------------------------

NOWHERE = Dirs("/proc/nowhere/store", "/proc/nowhere/state")


@pytest.mark.parametrize("words", [["--format", "xml"], ["psi", "kernel"], ["--for", "fun"], ["--color"], ["sycomp"]])
def test_nonsense_is_refused_before_anything_is_tried(words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        cli.doctor(NOWHERE, words)
    assert caught.value.message
    if words == ["sycomp"]:
        assert caught.value.hint == "did you mean seccomp?"


def test_options_may_stand_before_and_behind_the_item(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["where", "--format", "json"], ["--format=json", "where"]):
        cli.doctor(NOWHERE, words)
        assert [item["id"] for item in json.loads(capsys.readouterr().out)["items"]] == ["where"]


def test_every_item_answers_under_its_own_name_even_where_nothing_can_be_stored() -> None:
    report = examine(NOWHERE)
    assert [item.id for item in report.found] == [probe.id for probe in PROBES]
    assert "storage" in [item.id for item in report.blockers]
    assert {item.id: item.level for item in report.found}["run"] == "n/a"


def test_a_probe_that_stumbles_is_a_failed_item_and_no_traceback() -> None:
    def stumble(host: object) -> Item:
        raise LimitError("it broke", "mend it")

    def slip(host: object) -> Item:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/x")

    item = tried(Probe("cgroup", stumble), None)  # type: ignore[arg-type]
    assert (item.level, item.happened, item.fix, item.blocks) == ("fail", "it broke", "mend it", ("run",))
    assert tried(Probe("cgroup", slip), None).happened == "/x: No such file or directory"  # type: ignore[arg-type]


def test_without_the_extension_doctor_says_so_and_nothing_else() -> None:
    item = without.judge_missing_extension("No module named 'pybox._native'")
    assert (item.level, item.blocks) == ("fail", ("run", "rootless"))
    assert "pip install" in item.fix


# --- trials ------------------------------------------------------------------------------------------------------------------


def test_a_trial_tells_value_refusal_death_and_silence_apart() -> None:
    def fail() -> None:
        raise OSError(errno.EPERM, "no", "mount(x)")

    assert attempt(lambda: [1, "a"]) == Outcome([1, "a"])
    assert attempt(fail).words() == "mount(x): Operation not permitted [EPERM]"
    assert attempt(lambda: 1 // 0).words() == "ZeroDivisionError: integer division or modulo by zero"
    assert attempt(lambda: os.kill(os.getpid(), signal.SIGKILL)).words() == "the trial's process was killed by signal 9"
    assert attempt(signal.pause, 0.05).errno == errno.ETIMEDOUT
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # all were reaped


def test_the_plain_user_is_the_caller_or_who_called_sudo_or_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plain_user(1000, 100) == (1000, 100)
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert plain_user(0, 0) in ((65534, 65534), None)
    monkeypatch.setenv("SUDO_UID", "1000")
    monkeypatch.setenv("SUDO_GID", "1001")
    assert plain_user(0, 0) in ((1000, 1001), None)
