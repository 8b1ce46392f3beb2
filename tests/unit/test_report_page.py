"""The page of `pybox report`, made from evidence that nobody had to run for; what it leaves out and what it escapes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pybox import page
from pybox.contrast import SAME, Contrast, Row
from pybox.explain.evidence import Evidence, Group, Layer, Used
from pybox.explain.redact import HIDDEN, Redactor
from pybox.explain.report import html
from pybox.steps.base import quote

EVIL = "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b]0;x\x07&\"'"
STEP = {"number": 1, "side": "host", "describe": "claim", "calls": ["mkdir()"], "man": "mkdir(2)", "lesson": "One\nline.\n\nTwo.", "about": "host"}  # fmt: skip
EVIDENCE = Evidence(
    title="busybox: true",
    identity="0123456789ab",
    ended="exit 0",
    facts=(("command", "true"),),
    env=(("TOKEN", "correct horse"), ("A", "1")),
    steps=(
        {**STEP, "at_us": 0.0, "took_us": 250.0, "ok": True},
        {**STEP, "number": 2, "side": "inside", "about": "files", "at_us": 250.0, "took_us": 750.0, "ok": False},
        {**STEP, "number": 3, "side": "inside", "about": "process"},
    ),
    failed=0,
    contrast=Contrast(
        "0123456789ab",
        (Row("mnt namespace", "4026531832", "4026532247", "its own"), Row("user namespace", "4026531837", SAME), Row("mounts", "20", "19")),
        ("the kernel", "the clock"),
    ),
    layers=(Layer("writable layer, in memory", ""), Layer("layer of the image", "/store/l", "sha256:" + "ab" * 32, 1 << 20)),
    groups=(
        Group("memory", "/sys/fs/cgroup/memory/a/pybox-0", (("memory.limit_in_bytes", "9223372036854771712"),)),
        Group("pids", "/sys/fs/cgroup/pids/a/pybox-0", (("pids.max", "20"),)),
    ),
    used=(Used("memory", "1MiB", "4MiB", 0.25), Used("CPU time", "0.1 s", "")),
    effective=(("--memory", "cgroup v1"),),
    result={"wall": 0.01, "memory_peak": 1 << 20},
    notes=(),
)  # fmt: skip
VOID = {"meta", "rect", "img", "br"}


class Strict(HTMLParser):
    """Fails on what loads anything or runs; notes the tags and the text of those with an id."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.ids: dict[str, str] = {}
        self.links: list[str] = []
        self._named: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        assert tag not in ("script", "link", "iframe", "object", "img", "base") and "src" not in given and "style" not in given, (
            given
        )
        assert not any(name.startswith("on") for name in given), given
        assert (given.get("href") or "#").startswith("#")
        self.links += [str(given["href"])[1:]] if "href" in given else []
        if tag not in VOID:
            self.open.append(tag)
            self._named.append(given.get("id") or "")
        if given.get("id"):
            assert given["id"] not in self.ids
            self.ids[str(given["id"])] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:  # written as in XML
            return
        assert self.open and self.open.pop() == tag, (tag, self.open)
        self._named.pop()

    def handle_data(self, data: str) -> None:
        for name in self._named:
            if name:
                self.ids[name] += data


def made(evidence: Evidence = EVIDENCE, redactor: Redactor | None = None) -> tuple[str, Strict]:
    """Return the page and what a parser saw of it."""
    text = "".join(html(evidence, redactor or Redactor(evidence.env, "/root"), 0.0))
    parser = Strict()
    parser.feed(text)
    parser.close()
    return text, parser


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    text, parser = made()
    assert parser.open == [] and {"main", "nav", "svg", "table", "details"} <= set(parser.tags)
    assert not re.search(r"https?:|@import|url\(", text)
    assert set(parser.links) <= set(parser.ids) and len(parser.links) == parser.tags.count("section") == parser.tags.count("h2")
    assert "prefers-color-scheme" in text and "max-width:720px" in text and "<html lang=en>" in text


def test_the_page_says_what_was_seen() -> None:
    text, parser = made()
    for word in (
        "<p>One line.</p><p>Two.</p>",
        "4026532247",
        "= same",
        "sha256:abababababab",
        "9223372036854771712 (no limit)",
        "pids.max",
        "the clock",
        "25%",
    ):
        assert word in text
    assert "750 µs" in parser.ids["step-2"] and "not shown" in parser.ids["step-2"] and "not reached" in parser.ids["step-3"]
    assert text.count("<code>/sys/fs/cgroup</code>") == 1  # the tree has one trunk


def test_the_plan_in_the_page_is_json() -> None:
    document = json.loads(made()[1].ids["json"])
    assert document["schema"] == "pybox.report/1" and [step["number"] for step in document["steps"]] == [1, 2, 3]


EVERYWHERE = EVIDENCE.replace(
    title=EVIL, identity=EVIL, ended=EVIL, facts=((EVIL, EVIL),), env=((EVIL, EVIL),), notes=(EVIL,), effective=((EVIL, EVIL),),
    steps=({**STEP, "describe": EVIL, "calls": [EVIL], "man": EVIL, "lesson": EVIL},), layers=(Layer(EVIL, EVIL, EVIL, 1),) * 2,
    contrast=Contrast(EVIL, (Row("mnt namespace", EVIL, EVIL, EVIL), Row(EVIL, EVIL, EVIL, EVIL)), (EVIL,)), failed=1,
    groups=(Group(EVIL, EVIL, ((EVIL, EVIL),)),), used=(Used(EVIL, EVIL, EVIL, 0.5),), result={EVIL: EVIL},
)  # fmt: skip


@pytest.mark.parametrize("keep", [False, True])
def test_text_from_a_container_stays_text(keep: bool) -> None:
    text, parser = made(EVERYWHERE, Redactor(EVERYWHERE.env, "/root", keep))
    assert "\x1b" not in text and "\x07" not in text and parser.open == []
    if keep:
        assert text.count("&lt;script&gt;") > 20 and json.loads(parser.ids["json"])["result"] == {EVIL: EVIL}


def test_a_half_surrogate_of_an_argument_can_be_written() -> None:
    made(EVIDENCE.replace(title="\udcff"))[0].encode()


def test_values_of_variables_are_left_out_unless_asked_for() -> None:
    hidden = EVIDENCE.replace(title="busybox: echo correct horse")
    text, _ = made(hidden)
    assert "correct" not in text and f"TOKEN={HIDDEN}" in text and f"A={HIDDEN}" in text and "--no-redact" in text
    text, _ = made(hidden, Redactor(hidden.env, "/root", keep=True))
    assert "TOKEN=correct horse" in text and "A=1" in text


def test_a_value_is_left_out_of_a_system_call_and_of_a_title_that_is_cut() -> None:
    secret = 'pass"word\nline two'
    call = f"execve(..., [{quote(secret)}], ...)"
    evidence = EVIDENCE.replace(env=(("P", secret),), title="x" * 195 + secret, steps=({**STEP, "calls": [call]},))
    text, _ = made(evidence)
    assert "pass" not in text and f"{'x' * 195}{HIDDEN}</h1>" in text
    assert f"{'x' * 200}…</h1>" in made(EVIDENCE.replace(title="x" * 201))[0]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/root/x", "~/x"),
        ("bind /root on", "bind ~ on"),
        ("lowerdir=/root/a:/root/b", "lowerdir=~/a:~/b"),
        ("/rootfs /a/root /root.d", "/rootfs /a/root /root.d"),
        ("/home/alice/x", "/home/…/x"),
        ('mkdir("/home/alice", 0700)', 'mkdir("/home/…", 0700)'),
        ("/var/home/bob", "/var/home/…"),
        ("/home", "/home"),
    ],
)
def test_nobody_reads_whose_home_it_was(path: str, shown: str) -> None:
    assert Redactor((), "/root").text(path) == shown
    assert Redactor((), "/root", keep=True).text(path) == path


@pytest.mark.parametrize("home", ["", "/"])
def test_a_root_directory_as_home_hides_nothing(home: str) -> None:
    assert Redactor((), home).text("/etc/passwd") == "/etc/passwd"


def test_a_page_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    def broken() -> Iterator[str]:
        yield "half"
        raise ValueError

    target = tmp_path / "page"
    page.write(str(target), ["whole"])
    with pytest.raises(ValueError):
        page.write(str(target), broken())
    assert target.read_text() == "whole" and list(tmp_path.iterdir()) == [target]


def test_a_page_to_a_device_goes_into_the_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    page.write(str(tmp_path / "pipe"), ["a", "b"])
    assert os.read(reader, 10) == b"ab" and list(tmp_path.iterdir()) == [tmp_path / "pipe"]
    os.close(reader)
