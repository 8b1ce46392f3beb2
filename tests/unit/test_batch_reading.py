"""Batch files: what a file comes to, and that every mistake in one is told with its place before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybox.batch.fields import FIELDS
from pybox.batch.plan import Batch, check
from pybox.batch.reading import Entry, entries
from pybox.batch.source import Source
from pybox.batch.template import fill
from pybox.dirs import Dirs
from pybox.errors import PyboxError, SpecError
from pybox.jobs.budget import Budget

NOWHERE = Dirs(state="/nonexistent/state", store="/nonexistent/store")
BUDGET = Budget(1 << 30, 2.0)


def batch_of(folder: Path, name: str, text: str | bytes, **defaults: object) -> Batch:
    """Write a file and check it."""
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return check(Source(str(path)), defaults, BUDGET, NOWHERE)  # type: ignore[arg-type]


def jobs_of(folder: Path, name: str, text: str, **defaults: object) -> list[Entry]:
    """Return the jobs of a file."""
    return list(batch_of(folder, name, text, **defaults).entries())


def refused(folder: Path, name: str, text: str | bytes, **defaults: object) -> str:
    """Return the error of a file, its folder left out."""
    with pytest.raises(PyboxError) as caught:
        batch_of(folder, name, text, **defaults)
    assert caught.value.exit_code == 125 and "\n" not in caught.value.message
    return caught.value.message.replace(f"{folder}/", "") + (f" ({caught.value.hint})" if caught.value.hint else "")


# --- what a file comes to ----------------------------------------------------------------------------------------------------


def test_a_toml_file_has_defaults_and_jobs(tmp_path: Path) -> None:
    text = """
[defaults]
image = "host"
memory = "64M"
env = { A = "1", B = "2" }

[[job]]
name = "one"
args = ["echo", 1]
env = { B = "3" }

[[job]]
command = "echo {literal} | cat"
memory = "32M"
needs = ["one"]
volumes = ["/srv:/srv:ro"]
"""
    one, two = jobs_of(tmp_path, "jobs.toml", text)
    assert (one.job.image, one.job.args, one.job.options()["memory"]) == ("host", ("echo", "1"), "64M")
    assert one.job.options()["env"] == {"A": "1", "B": "3"}
    assert two.job.args == ("sh", "-c", "echo {literal} | cat") and two.needs == ("one",)
    assert two.job.options()["memory"] == "32M" and two.job.spec().mounts[0].read_only


def test_an_array_is_many_jobs(tmp_path: Path) -> None:
    text = '[[job]]\nimage = "host"\nname = "a"\narray = "1-5:2"\nargs = ["x{i}", "{{i}}"]\nenv = { N = "{i}" }\n'
    found = jobs_of(tmp_path, "jobs.toml", text)
    assert [(entry.job.name, entry.job.args, entry.group) for entry in found] == [
        (f"a[{n}]", (f"x{n}", "{i}"), "a") for n in (1, 3, 5)
    ]
    assert [entry.heads for entry in found] == [True, False, False]
    (first, *_, last) = jobs_of(tmp_path, "jobs.toml", '[[job]]\nimage = "host"\nname = "n{i}"\narray = 100\nargs = ["{i}"]\n')
    assert (first.job.name, last.job.name, last.group) == ("n0", "n99", "")
    columns = 'array = [{ file = "a b", n = 1 }, { file = "c", n = 2 }]\ncommand = "wc {file} {n} {i}"'
    quoted, plain = jobs_of(tmp_path, "jobs.toml", f'[[job]]\nimage = "host"\n{columns}\n')
    assert (quoted.job.args[2], plain.job.args[2]) == ("wc 'a b' 1 0", "wc c 2 1")


def test_a_line_of_jsonl_is_a_job_as_it_is(tmp_path: Path) -> None:
    text = '{"image": "host", "args": ["{i}"], "name": "n", "timeout": "2m"}\n\n{"image": "host", "command": "a | b", "needs": ["n"]}\n'
    first, second = jobs_of(tmp_path, "jobs.jsonl", text)
    assert (first.job.args, first.job.timeout) == (("{i}",), 120.0)
    assert (second.job.args, second.needs) == (("sh", "-c", "a | b"), ("n",))


def test_a_row_of_csv_fills_a_template_or_says_it_itself(tmp_path: Path) -> None:
    text = 'file,n\n"a b;c",1\n"two\nlines",2\n'
    first, second = jobs_of(tmp_path, "t.csv", text, image="host", command="wc {file} {n}", env={"F": "{file}"})
    assert first.job.args == ("sh", "-c", "wc 'a b;c' 1") and first.job.options()["env"] == {"F": "a b;c"}
    assert second.job.args == ("sh", "-c", "wc 'two\nlines' 2")
    (alone,) = jobs_of(tmp_path, "t.csv", "image,command,memory\nhost,echo {x},64M\n")
    assert alone.job.args == ("sh", "-c", "echo {x}") and alone.job.options()["memory"] == "64M"


def test_the_same_jobs_are_the_same_batch_in_any_format(tmp_path: Path) -> None:
    toml = '[[job]]\nimage = "host"\nname = "a{i}"\narray = 2\nargs = ["echo", "{i}"]\n'
    jsonl = "".join(f'{{"args": ["echo", "{n}"], "name": "a{n}", "image": "host"}}\n' for n in range(2))
    one, other = batch_of(tmp_path, "a.toml", toml), batch_of(tmp_path, "a.jsonl", jsonl)
    assert (one.digest, one.count) == (other.digest, other.count)
    assert batch_of(tmp_path, "b.jsonl", jsonl.replace('"1"', '"2"')).digest != one.digest


@pytest.mark.parametrize(
    ("text", "format"),
    [('{"image": "host"}\n', "jsonl"), ("# jobs\n[[job]]\n", "toml"), ("image,command\nhost,true\n", "csv"), ("", "jsonl")],
)
def test_a_file_without_an_ending_is_told_by_its_look(tmp_path: Path, text: str, format: str) -> None:
    (tmp_path / "jobs").write_text(text)
    assert Source(str(tmp_path / "jobs")).format == format


@given(st.text())
def test_a_literal_text_survives_its_template(text: str) -> None:
    assert fill("args", text.replace("{", "{{").replace("}", "}}"), {"i": "1"}) == text


@given(st.text(), st.text(alphabet=st.characters(exclude_characters="\0", codec="utf-8")))
def test_a_value_is_one_word_for_the_shell(prefix: str, value: str) -> None:
    import shlex

    assert shlex.split(fill("command", "x {v}", {"v": value}, shell=True)) == ["x", value]


# --- mistakes ----------------------------------------------------------------------------------------------------------------

JOB = '[[job]]\nimage = "host"\nargs = ["true"]\n'
MISTAKES = [
    ("a.toml", "[[job]]\nimage = \n", "a.toml:2:9: not TOML: invalid value"),
    ("a.toml", JOB + 'memry = "1M"\n', "a.toml:4:1: memry: no such field (did you mean memory?)"),
    ("a.toml", JOB + 'memory = "12Q"\n', "a.toml:4:1: memory: '12Q': not a size or number, e.g. 64M or 1.5g"),
    ("a.toml", JOB + JOB + '  timeout = "soon"\n', "a.toml:7:3: timeout: 'soon': not a size or number, e.g. 5, 0.5, 100ms or 2m"),
    ("a.toml", '[defaults]\npids = 0\n[[job]]\nimage = "host"\n', "a.toml:2:1: pids-limit: 0: must be between 1 and 4194304"),
    ("a.toml", JOB + "[job.env]\nA = true\n", "a.toml:4:1: env: {'A': True}: must be a table"),
    ("a.toml", "[[jobs]]\n", "a.toml:1:1: jobs: no such table (did you mean [[job]]?)"),
    ("a.toml", "[job]\n", "a.toml:1:1: job: must be [[job]] tables"),
    ("a.toml", JOB + "array = 0\n", "a.toml:4:1: array: '0': must have 1 to 10000000 elements"),
    ("a.toml", JOB + 'array = "3-x"\n', "a.toml:4:1: array: '3-x': must be a number, FIRST-LAST[:STEP] or a list (e.g. 100, \"1-100:2\", [\"a\", \"b\"])"),
    ("a.toml", JOB + 'array = 2\nname = "{j}"\n', "a.toml:5:1: name: '{j}': {j} stands for nothing (there are: {i}; a brace itself is written {{ or }})"),
    ("a.toml", JOB + 'text = """\n[[job]]\nmemory = 1\n"""\n', "a.toml:4:1: text: no such field (docs/batch.md lists them)"),
    ("a.toml", JOB + "cpus = 64\n", "a.toml:4:1: cpus: '64': it wants 64 CPUs, and there are 2 to share"),
    ("a.toml", JOB + 'memory = "2G"\n', "a.toml:4:1: memory: '2G': it wants 2147483648 bytes of memory, and there are 1073741824 to share"),
    ("a.toml", JOB + 'needs = ["x"]\n', "a.toml:4:1: needs: 'x': no job of that name"),
    ("a.toml", JOB + 'name = "prep"\n' + JOB + 'needs = ["perp"]\n', "a.toml:8:1: needs: 'perp': no job of that name (did you mean prep?)"),
    ("a.toml", JOB + 'name = "a"\nneeds = ["a"]\n', "a.toml:5:1: needs: a circle: a needs a"),
    ("a.toml", JOB + 'name = "a"\nneeds = ["b"]\n' + JOB + 'name = "b"\nneeds = ["c"]\n' + JOB + 'name = "c"\narray = 2\nneeds = ["a"]\n', "a.toml:5:1: needs: a circle: a needs b needs c[0] needs a"),
    ("a.toml", JOB + 'name = "a"\n' + JOB + 'name = "a"\n', "a.toml:8:1: name: 'a': is the name of the job of line 4 already"),
    ("a.toml", 'image = "host"\n', "a.toml:1:1: image: no such table (there are [defaults] and [[job]])"),
    ("a.toml", "", "file: 'a.toml': has no jobs in it"),
    ("a.jsonl", '{"image": "host"}\n{"image": "host",\n', "a.jsonl:2:19: not JSON: expecting property name enclosed in double quotes (one object in each line)"),
    ("a.jsonl", '{"image": "host"}\n[1]\n', "a.jsonl:2:1: job: '[1]': must be an object with image and args"),
    ("a.jsonl", '{"image": "host", "env": {"memory": "x"}, "memory": "12Q"}\n', "a.jsonl:1:43: memory: '12Q': not a size or number, e.g. 64M or 1.5g"),
    ("a.jsonl", '{"image": "host", "args": [1, null]}\n', "a.jsonl:1:19: args: [1, None]: must be a list of texts or a text"),
    ("a.jsonl", '{"image": "host", "args": ["a"], "command": "b"}\n', "a.jsonl:1:34: command: is said twice: it is the same as args"),
    ("a.jsonl", '{"args": ["a"]}\n', "a.jsonl:1:1: image: is missing"),
    ("a.jsonl", '{"image": "nosuch"}\n', "a.jsonl:1:2: image: no image nosuch"),
    ("a.jsonl", b'{"image": "host"}\n{"image": "\xff"}\n', "a.jsonl:2:12: not UTF-8 text"),
    ("a.jsonl", '{"image": "host", "read_only": "yes"}\n', "a.jsonl:1:19: read_only: 'yes': must be true or false"),
    ("a.csv", "image,command\nhost\n", "a.csv:2:2: 1 cells, but 2 columns"),
    ("a.csv", "image,command,image\n", "a.csv:1:3: image: two columns of that name"),
    ("a.csv", "image,cmd\nhost,true\n", "a.csv:1:1: command: is missing (--command 'TEXT with {column}', or a column of that name)"),
    ("a.csv", 'image,command,memory\nhost,"true\n",1G\nhost,true,1X\n', "a.csv:4:3: memory: '1X': not a size or number, e.g. 64M or 1.5g"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "message"), MISTAKES, ids=lambda value: None)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    found = refused(tmp_path, name, text)
    assert found == message or found.startswith(f"{message} (")


def test_a_misspelt_column_is_told_the_right_one(tmp_path: Path) -> None:
    found = refused(tmp_path, "a.csv", "file,n\nx,1\n", image="host", command="wc {flie}")
    assert found == "a.csv:2:1: command: 'wc {flie}': {flie} stands for nothing (did you mean {file}?)"


def test_two_arrays_may_need_each_others_names_only_one_way(tmp_path: Path) -> None:
    text = '[defaults]\nimage = "host"\n[[job]]\nname = "a"\narray = 3\n[[job]]\nname = "b{i}"\narray = 3\nneeds = ["a[{i}]"]\n[[job]]\nname = "c"\nneeds = ["a", "b1"]\n'
    batch = batch_of(tmp_path, "a.toml", text)
    assert {name: list(members) for name, members in batch.members.items()} == {
        "a": [0, 1, 2], "a[0]": [0], "a[1]": [1], "a[2]": [2], "b1": [4],
    }  # fmt: skip
    assert batch.needs == {3: ("a[0]",), 4: ("a[1]",), 5: ("a[2]",), 6: ("a", "b1")}


def test_a_long_chain_of_needs_is_no_circle_and_no_recursion(tmp_path: Path) -> None:
    lines = [
        '{"image": "host", "name": "0"}',
        *(f'{{"image": "host", "name": "{n}", "needs": ["{n - 1}"]}}' for n in range(1, 3000)),
    ]
    assert batch_of(tmp_path, "a.jsonl", "\n".join(reversed(lines))).count == 3000


def test_a_file_that_is_changed_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"image": "host"}\n' * 3)
    source = Source(str(path))
    reading = entries(source, {})
    next(reading)
    path.write_text('{"image": "host"}\n' * 4)
    with pytest.raises(PyboxError, match="was changed while it was read"):
        list(reading)


def test_each_field_of_a_job_is_one_of_run_or_of_the_batch() -> None:
    from pybox.api import Container

    own = {"image", "args", "name", "needs", "array", "timeout", "input", "retries"}
    assert set(FIELDS) == own | set(Container.__annotations__)


@given(st.binary(max_size=300), st.sampled_from(["a.toml", "a.jsonl", "a.csv"]))
def test_no_file_whatsoever_makes_it_stumble(tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str) -> None:
    folder = tmp_path_factory.mktemp("junk")
    try:
        batch_of(folder, name, data, image="host", command="true")
    except PyboxError as error:
        assert not isinstance(error, SpecError) or error.field == "file"
