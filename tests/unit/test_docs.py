"""What the documents say is so: versions, links, names of tests, pages of the manual."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import pybox
from pybox.cli.options import RUN
from pybox.codes import CODES
from pybox.explain.why import step_kinds
from pybox.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md"), *(ROOT / "images").glob("*.md")]
)
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
_PAGE = re.compile(r"\b[a-z_][\w.-]*\([1-8](?:const)?\)")
PAGES = sorted(
    {kind.man for kind in step_kinds()}
    | {page for kind in step_kinds() for page in _PAGE.findall(inspect.getdoc(kind) or "")}
    | {page for code in CODES.values() for page in _PAGE.findall(f"{code.means} {code.read}")}
)


NO_BENCH = pytest.mark.xfail(
    not (ROOT / "bench" / "RESULTS.md").exists(), strict=True, reason="bench/RESULTS.md is not there yet: make bench"
)
LINKING = [pytest.param(name, marks=NO_BENCH if name == "README.md" else ()) for name in NAMES]


def test_the_newest_release_of_the_changelog_is_this_version() -> None:
    releases = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert releases[0][0] == VERSION
    assert [release[1] for release in releases] == sorted((release[1] for release in releases), reverse=True)


def test_there_are_documents() -> None:
    assert {"README.md", "CHANGELOG.md", "docs/security.md", "docs/limits.md"} <= set(NAMES)


@pytest.mark.parametrize("name", LINKING)
def test_relative_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()) if "://" not in link]
    assert [link for link in links if link and not (path.parent / link).exists()] == []


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document: its headings, as GitHub and mkdocs name them, and what mkdocstrings makes of API names."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
    headings = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", line) for line in re.findall(r"^#+ +(.*)$", text, re.M)]
    named = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
    return named | set(re.findall(r"^::: ([\w.]+)$", text, re.M))


@pytest.mark.parametrize("name", LINKING)
def test_anchors_are_there(name: str) -> None:
    path = ROOT / name
    links = [
        link.partition("#") for link in re.findall(r"\]\(([^)\s]+#[^)\s]+|#[^)\s]+)\)", path.read_text()) if "://" not in link
    ]
    targets = [(path.parent / file if file else path, anchor) for file, _, anchor in links]
    assert [str(file) + "#" + anchor for file, anchor in targets if file.suffix == ".md" and anchor not in anchors(file)] == []


def test_the_site_names_every_concept_and_no_page_that_is_not_there() -> None:
    """Other pages of docs/ find their place by themselves: .ci/site.py."""
    named = set(re.findall(r"^ +- (?:\w+: )?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    elsewhere = {"index.md", "CHANGELOG.md", *(name for name in named if name.startswith("bench/"))}
    assert {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs" / "concepts").glob("*.md")} <= named
    assert [name for name in sorted(named - elsewhere) if not (ROOT / "docs" / name).exists()] == []


def test_the_reference_of_python_has_every_public_name() -> None:
    told = {name.split(".")[1] for name in re.findall(r"^::: (pybox\.[\w.]+)$", (ROOT / "docs" / "api.md").read_text(), re.M)}
    assert set(pybox.__all__) - {"PIPE", "STDOUT", "DEVNULL", "__version__"} <= told  # those are subprocess's


@pytest.mark.parametrize("name", LINKING)
def test_files_named_in_a_document_exist(name: str) -> None:
    named = set(
        re.findall(
            r"(?<![\w/.])((?:pybox|tests|csrc|bench|docs|kernel|image|steps)/[\w/]+\.(?:py|c|h|md))", (ROOT / name).read_text()
        )
    )
    assert [file for file in sorted(named) if not (ROOT / file).exists() and not (ROOT / "pybox" / file).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_tests_named_in_a_document_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    defined = {word for path in (ROOT / "tests").rglob("test_*.py") for word in re.findall(r"def (test_\w+)", path.read_text())}
    files = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert set(re.findall(r"\btest_\w+", text)) - defined - files == set()


@pytest.mark.parametrize("name", NAMES)
def test_options_named_in_a_document_exist(name: str) -> None:
    text = "\n".join(re.findall(r"pybox run[^\n`]*", (ROOT / name).read_text()))
    words = [word for line in text.splitlines() for word in line.split() if word.startswith("--") and len(word) > 2]
    ours = {option for entry in RUN for option in entry.names}
    assert {word.partition("=")[0] for word in words} <= ours | {"--help"}


def test_targets_of_make_named_in_a_document_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {
        word for path in DOCUMENTS for word in re.findall(r"(?:^    (?:sudo )?|`)make ([a-z][a-z0-9-]*)", path.read_text(), re.M)
    }
    assert named and named <= targets


def test_source_comments_name_files_that_exist() -> None:
    missing = []
    for path in sorted([*(ROOT / "pybox").rglob("*.py"), *(ROOT / "csrc").glob("*.[ch]")]):
        for file in re.findall(r"(?<![\w/.])((?:pybox|csrc|tests)/[\w/]+\.(?:py|c|h))\b", path.read_text()):
            if not (ROOT / file).exists():
                missing.append(f"{path.relative_to(ROOT)}: {file}")
    assert missing == []


NEWER = "a page of man-pages 6.10; Debian 12 has 6.03"
NEWER_PAGES = {"PR_SET_NO_NEW_PRIVS(2const)", "PR_SET_PDEATHSIG(2const)", "proc_pid_oom_score_adj(5)"}


def man(page: str) -> bool:
    """Return whether man(1) finds a page like ``mount(2)``."""
    name, _, section = page.rstrip(")").partition("(")
    return subprocess.run(["man", "-w", section, name], capture_output=True).returncode == 0


@pytest.mark.skipif(shutil.which("man") is None or not man("mount(2)"), reason="needs man and the pages of Debian's manpages-dev")
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.xfail(strict=True, reason=NEWER)) if page in NEWER_PAGES else page for page in PAGES],
)
def test_the_page_that_a_step_or_a_code_names_is_in_the_manual(page: str) -> None:
    assert man(page), f"no page {page} in this manual"
