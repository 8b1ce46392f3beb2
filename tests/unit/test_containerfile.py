"""Containerfiles as text: instructions and their lines, variables, stages, what is refused before anything runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybox.containerfile import checking, reading, settings, stages
from pybox.containerfile.errors import ContainerfileError
from pybox.containerfile.reading import Containerfile, Instruction
from pybox.containerfile.settings import Wording
from pybox.containerfile.words import WordError, expand, expand_document, raw_words
from pybox.image import store


def read(text: str) -> Containerfile:
    return reading.read(text.encode(), "Containerfile")


def checked(text: str) -> Containerfile:
    file = read(text)
    checking.check(file)
    return file


def rows(text: str) -> list[tuple[int, str, str]]:
    return [(each.line, each.word, each.text) for each in read(text).instructions]


# --- reading ---------------------------------------------------------------------------------------------------------------------


def test_lines_are_those_where_an_instruction_begins() -> None:
    text = "# syntax=docker/dockerfile:1\n\nFROM a\n  # comment\nrun one \\\n  # in between\n\n  two \\\n three\nCMD x"
    assert rows(text) == [(3, "FROM", "a"), (5, "RUN", "one   two  three"), (10, "CMD", "x")]


def test_an_escaped_escape_does_not_continue_a_line() -> None:
    assert rows("RUN a\\\\\nCMD b") == [(1, "RUN", "a\\\\"), (2, "CMD", "b")]


def test_the_escape_directive_changes_what_continues_a_line() -> None:
    assert rows("# escape=`\nRUN dir c:\\\nRUN a `  \nb") == [(2, "RUN", "dir c:\\"), (3, "RUN", "a b")]
    assert rows("# a comment\n# escape=`\nRUN a \\\nb") == [(3, "RUN", "a b")]  # no directive below a comment


def test_windows_line_ends_and_a_byte_order_mark_do_not_matter() -> None:
    assert [each.text for each in reading.read(b"\xef\xbb\xbfFROM a\r\nRUN x \\\r\n y\r\n", "C").instructions] == ["a", "x  y"]


def test_flags_are_taken_off_where_an_instruction_has_some() -> None:
    file = read("COPY --from=a --link b c\nCMD --x y\nHEALTHCHECK --retries=3 CMD x")
    assert [each.flags for each in file.instructions] == [(("from", "a"), ("link", "")), (), (("retries", "3"),)]
    assert [each.text for each in file.instructions] == ["b c", "--x y", "CMD x"]


def test_here_documents_are_read_to_their_ends() -> None:
    file = read("RUN <<-A cat <<'B' # x\n\tone\nFROM b\n\tA\ntwo $x\nB\nCMD z\nRUN a <<<b\nRUN echo $((1<<2))")
    first = file.instructions[0].heredocs
    assert [(each.name, each.text, each.expand) for each in first] == [("A", "one\nFROM b\n", True), ("B", "two $x\n", False)]
    assert [(each.line, each.word) for each in file.instructions] == [(1, "RUN"), (7, "CMD"), (8, "RUN"), (9, "RUN")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "C: no instructions"),
        ("# only\n\n", "no instructions"),
        ("\\", "no instructions"),
        ("RUN a\nRUN b\0", "C:2: a zero byte"),
        ("RUN a\n\nRUN cat <<X\nY", "C:3: the here-document <<X has no end"),
        ("# escape=x\nRUN a", "C:1: escape=x"),
        ("# syntax=a/b\nRUN a", "C:1: syntax=a/b"),
        ("# escape=`\n# escape=`\nRUN a", "C:2: a second directive"),
    ],
)
def test_a_text_that_is_no_containerfile_is_refused(text: str, said: str) -> None:
    with pytest.raises(ContainerfileError) as caught:
        reading.read(text.encode(), "C")
    assert said in str(caught.value)


def test_continued_lines_with_nothing_on_them_are_no_instruction() -> None:
    assert [each.text for each in read("FROM a\n\\\n  \\\n").instructions] == ["a"]


def test_bytes_that_are_no_utf8_are_refused_with_their_line() -> None:
    with pytest.raises(ContainerfileError, match="C:2: not UTF-8"):
        reading.read(b"FROM a\nRUN \xff", "C")


@given(st.binary(max_size=200) | st.text(alphabet="FROMRUNCOPY \\\n<<-EOF#\"'$={}[]:/.x", max_size=120).map(str.encode))
def test_whatever_is_read_is_refused_in_words_or_understood(blob: bytes) -> None:
    try:
        file = reading.read(blob, "C")
        checking.check(file)
        stages.layout(file, {})
    except ContainerfileError as error:
        assert str(error).startswith("C:") and "\n" not in str(error).rstrip("\n")


# --- words -----------------------------------------------------------------------------------------------------------------------

VALUES = {"a": "1", "empty": "", "two": "x y"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$a ${a}b $none-", "1 1b -"),
        ("${none:-d} ${empty:-d} ${empty-d} ${a:-d}", "d d  1"),
        ("${none:+d} ${empty:+d} ${empty+d} ${a:+d}", "  d d"),
        ("${none:-${a}x}", "1x"),
        ("${none:-'q}'}", "q}"),
        ('\'$a\' "$a" \\$a "\\$a" "\\x"', "$a 1 $a $a \\x"),
        ("a\\ b", "a b"),
        ("$two", "x y"),
        ("$", "$"),
        ("5$.", "5$."),
        ("x\\", "x"),
    ],
)
def test_variables_are_replaced_as_docker_does(text: str, expected: str) -> None:
    assert expand(text, VALUES) == expected


def test_the_escape_character_counts_in_words_too() -> None:
    assert expand("`$a c:\\x", VALUES, "`") == "$a c:\\x"


@pytest.mark.parametrize("text", ["'x", '"x', "${a", "${", "${a:-x", "${a#x}", "${a//x/y}", "${none:?must be}", "${n:-" * 2000])
def test_what_can_not_be_replaced_says_so(text: str) -> None:
    with pytest.raises(WordError):
        expand(text, VALUES)


def test_a_here_document_keeps_its_quotes_and_escapes() -> None:
    assert expand_document('don\'t "$a" \\$a ${none:-d}\\\n', VALUES) == 'don\'t "1" \\$a d\\\n'


def test_words_keep_their_quotes() -> None:
    assert raw_words("a=\"b c\" d='e\\' f\\ g", "\\") == ['a="b c"', "d='e\\'", "f\\ g"]


@given(st.text(max_size=60))
def test_expanding_any_text_ends(text: str) -> None:
    try:
        expand(text, VALUES)
    except WordError:
        pass


# --- what is refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("FOO x", "no such instruction: FOO"),
        ("RUM x", "no such instruction: RUM"),
        ("ONBUILD RUN x", "ONBUILD is not supported"),
        ("RUN --mount=type=cache,target=/x y", "RUN --mount is not supported"),
        ("RUN --security=insecure y", "RUN --security is not supported"),
        ("RUN --network=host y", "--network=host"),
        ("RUN", "RUN: needs a command"),
        ("RUN []", "RUN: needs a command"),
        ("COPY x", "needs a source and a destination"),
        ("COPY ../x /", "../x: leads out of the build context"),
        ("COPY a/../../x /", "leads out of the build context"),
        ('COPY ["a", "../b", "/"]', "leads out of the build context"),
        ("COPY --exclude=x a b", "COPY --exclude is not supported"),
        ("COPY --chmod=u+x a b", "must be octal"),
        ("COPY --from=a --from=b a b", "--from is given twice"),
        ("ADD https://example.com/x /", "what is on the network is not fetched"),
        ("ADD git@github.com:a/b.git /", "what is on the network is not fetched"),
        ("ADD --checksum=x a b", "ADD --checksum is not supported"),
        ("ENV a", "a has no value"),
        ("ENV a=b c", "'c' is not NAME=VALUE"),
        ('ENV a="b', "not closed"),
        ("LABEL =x", "is not NAME=VALUE"),
        ("ARG 1-2=x", "is no name for a variable"),
        ("SHELL /bin/sh", "must be a JSON array"),
        ("HEALTHCHECK x", "must be CMD and a command, or NONE"),
        ("HEALTHCHECK --interval=5 CMD x", "--interval=5: not a time"),
        (f"HEALTHCHECK --interval={'9' * 400}h CMD x", "too long"),
        ("HEALTHCHECK --retries=x CMD x", "--retries=x: must be a number"),
        ("WORKDIR", "needs a value"),
        ("FROM a b", "must be IMAGE or IMAGE AS NAME"),
    ],
)
def test_what_is_not_supported_is_refused_with_its_line(line: str, said: str) -> None:
    with pytest.raises(ContainerfileError) as caught:
        checked(f"FROM a\n\n{line}\n")
    assert caught.value.line == 3 and said in str(caught.value) and str(caught.value).startswith("Containerfile:3: ")


def test_a_misspelt_instruction_is_told_the_right_one() -> None:
    with pytest.raises(ContainerfileError) as caught:
        checked("FROM a\nENTRYPONT x")
    assert caught.value.hint == "did you mean ENTRYPOINT?"


# --- stages ----------------------------------------------------------------------------------------------------------------------

THREE = """ARG BASE=one
FROM $BASE AS a
FROM a AS b
RUN x
FROM two AS unused
FROM scratch
COPY --from=b x y
COPY --from=elsewhere x y
"""


def laid(text: str, target: str = "", **args: str) -> stages.Layout:
    return stages.layout(checked(text), args, target)


def test_only_stages_that_the_target_needs_are_built() -> None:
    assert [(s.number, s.base) for s in laid(THREE).stages] == [(0, "one"), (1, 0), (3, "scratch")]
    assert [s.number for s in laid(THREE, "B").stages] == [0, 1]
    assert [s.number for s in laid(THREE, "2").stages] == [2]
    assert laid(THREE, BASE="other").stages[0].base == "other"


def test_a_stage_is_found_by_name_or_number_only_before_itself() -> None:
    layout = laid(THREE)
    assert [layout.find(name, 3) for name in ("a", "B", "0", "3", "elsewhere")] == [0, 1, 0, None, None]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("RUN x\nFROM a", 1, "RUN before the first FROM"),
        ("ARG x", 1, "no FROM"),
        ("FROM $x", 1, "that is empty"),
        ("FROM host", 1, "the machine's own root"),
        ("ARG x=host\nFROM $x", 2, "the machine's own root"),
        ("FROM a\nCOPY --from=host /etc/shadow /", 2, "the machine's own files"),
        ("FROM a AS b\nFROM a AS B", 2, "a second stage b"),
        ("FROM a AS 1x", 1, "is no name for a stage"),
        ("FROM --platform=plan9/mips a", 1, "only linux/"),
        ("FROM a\nCOPY --from=0 x y", 2, "there is no such stage before this one"),
    ],
)
def test_stages_that_make_no_sense_are_refused(text: str, line: int, said: str) -> None:
    with pytest.raises(ContainerfileError) as caught:
        laid(text)
    assert caught.value.line == line and said in str(caught.value)


def test_an_unknown_target_is_told_the_stages_that_there_are() -> None:
    with pytest.raises(ContainerfileError) as caught:
        laid(THREE, "nope")
    assert "no stage nope" in str(caught.value) and caught.value.hint is not None and "a, b" in caught.value.hint


@pytest.mark.parametrize(
    ("machine", "names"), [("amd64", ["linux/amd64", "linux/amd64/v1"]), ("arm64", ["linux/arm64", "linux/arm64/v8"])]
)
def test_a_machine_has_more_names_than_one(machine: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "architecture", lambda: machine)
    assert all(map(stages.buildable, names)) and not stages.buildable("linux/riscv64") and not stages.buildable(machine)


def test_this_machine_is_a_platform() -> None:
    here = store.architecture()
    assert laid(f"FROM --platform=linux/{here} a").stages[0].base == "a"
    assert laid("FROM --platform=$TARGETPLATFORM a-$TARGETARCH").stages[0].base == f"a-{here}"


# --- settings --------------------------------------------------------------------------------------------------------------------


def apply(config: dict[str, object], line: str, **values: str) -> dict[str, object]:
    (instruction,) = checked(line).instructions
    found, _ = settings.apply(config, Wording(instruction, values))  # type: ignore[arg-type]
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("config", "line", "expected"),
    [
        ({}, 'ENV a=1 b="$x y" c=$a', {"Env": ["a=1", "b=X y", "c="]}),
        ({"Env": ["a=0", "z=1"]}, "ENV a b  c", {"Env": ["a=b  c", "z=1"]}),
        ({}, "LABEL a=b 'c d'=e", {"Labels": {"a": "b", "c d": "e"}}),
        ({}, "CMD echo $x", {"Cmd": ["/bin/sh", "-c", "echo $x"]}),
        ({"Shell": ["/bin/bash", "-c"]}, "ENTRYPOINT a", {"Shell": ["/bin/bash", "-c"], "Entrypoint": ["/bin/bash", "-c", "a"]}),
        ({}, 'CMD ["a", "$x"]', {"Cmd": ["a", "$x"]}),
        ({}, "CMD []", {"Cmd": []}),
        ({}, 'CMD ["\\ud800\\ud83d\\ude00"]', {"Cmd": ["\ufffd\U0001f600"]}),
        ({}, "CMD [a]", {"Cmd": ["/bin/sh", "-c", "[a]"]}),
        ({}, "USER $x", {"User": "X"}),
        ({"WorkingDir": "/a"}, "WORKDIR b/../c", {"WorkingDir": "/a/c"}),
        ({"WorkingDir": "/a"}, "WORKDIR /../b", {"WorkingDir": "/b"}),
        ({}, "EXPOSE 80 53/UDP 1-2", {"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "1/tcp": {}, "2/tcp": {}}}),
        ({}, "VOLUME /a /b", {"Volumes": {"/a": {}, "/b": {}}}),
        ({}, 'VOLUME ["/a b"]', {"Volumes": {"/a b": {}}}),
        ({}, 'SHELL ["a", "-c"]', {"Shell": ["a", "-c"]}),
        ({}, "STOPSIGNAL sigint", {"StopSignal": "sigint"}),
        ({}, "HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
        (
            {},
            "HEALTHCHECK --interval=1m30s --start-period=500ms --retries=2 CMD a b",
            {"Healthcheck": {"Test": ["CMD-SHELL", "a b"], "Interval": 90 * 10**9, "StartPeriod": 5 * 10**8, "Retries": 2}},
        ),
        ({}, 'HEALTHCHECK CMD ["a"]', {"Healthcheck": {"Test": ["CMD", "a"]}}),
    ],
)
def test_instructions_change_the_settings_as_docker_does(
    config: dict[str, object], line: str, expected: dict[str, object]
) -> None:
    assert apply(config, line, x="X") == expected


@pytest.mark.parametrize(
    "line",
    [
        "EXPOSE 0",
        "EXPOSE 70000",
        "EXPOSE 2-1",
        "EXPOSE x",
        "EXPOSE 1/x",
        "STOPSIGNAL FOO",
        f"STOPSIGNAL {'9' * 5000}",
        "USER $none",
    ],
)
def test_settings_that_make_no_sense_are_refused(line: str) -> None:
    with pytest.raises(WordError):
        apply({}, line)


def test_an_instruction_is_shown_in_one_line() -> None:
    assert Instruction("RUN", 1, "a \n  b", (("network", "none"),)).shown() == "RUN --network=none a b"
