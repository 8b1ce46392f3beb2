"""fastjson is the json module's reader and writer without the price of its import."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pybox import fastjson

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
JSONISH = st.text(st.sampled_from('[]{}",:\\/0123456789.eE+-truefalsn \n\t\u00e9\ud800\ufeff\x00'), max_size=14)


@given(VALUES)
@example({"a": {"a": [True, None, -0.0, 1e300, "\ud800\u2028\x00"]}})
def test_what_is_written_is_what_json_writes_and_reads_back(value: fastjson.Json) -> None:
    text = fastjson.dumps(value)
    assert text == json.dumps(value)
    assert fastjson.loads(text) == value == json.loads(text)


@given(VALUES)
@example({"a": ["b c", 1, -1.5, True, None, {}, [], ()]})
@example({"a": '"'})
@example(["\\", "\x7f", "\u00e9", "\n"])
@example([float("inf"), -float("inf")])
def test_what_is_written_before_the_encoder_is_loaded_is_the_same(value: fastjson.Json) -> None:
    encoder = sys.modules.pop("_json")
    try:
        assert fastjson.dumps(value) == json.dumps(value)
    finally:
        sys.modules["_json"] = encoder


def test_a_plain_value_does_not_load_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "_json")
    assert fastjson.dumps({"args": ["true"], "owner": 7}) == '{"args": ["true"], "owner": 7}'
    assert "_json" not in sys.modules


@given(VALUES, st.sampled_from((None, 1, "\t")))
def test_any_layout_is_read(value: fastjson.Json, indent: int | str | None) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    assert fastjson.loads(f" \r\n{text}\t\n") == value


@given(JSONISH | st.text())
@example("")
@example(" ")
@example("{}{}")
@example('{"a":1,}')
@example("[1,]")
@example("01")
@example('"\x01"')
@example('"\\ud8"')
@example("\u00a0{}")
@example("\ufeff{}")
@example("tru")
@example("-")
def test_any_text_gives_what_json_gives_or_a_value_error(text: str) -> None:
    try:
        wanted = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            fastjson.loads(text)
    else:
        assert json.dumps(fastjson.loads(text)) == json.dumps(wanted)


@pytest.mark.parametrize("cut", range(1, 48))
def test_every_cut_of_a_journal_is_refused(cut: int) -> None:
    whole = '{"schema": "pybox.container/1", "leaves": [["tree", "/x"]], "created": 1.5}'
    with pytest.raises(ValueError):
        fastjson.loads(whole[:cut])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON at character 0"),
        ("nil", "not JSON at character 0"),
        ("{} x", "not JSON at character 2: one value expected"),
        ("[1, nil]", "not JSON at character 4"),
    ],
)
def test_the_place_of_the_mistake_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        fastjson.loads(text)
    assert str(caught.value) == message


def test_a_tuple_is_written_as_a_list_and_the_order_of_keys_is_kept() -> None:
    assert fastjson.dumps({"b": (1, "x"), "a": ()}) == '{"b": [1, "x"], "a": []}'


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object()], ids=["bytes", "set", "object"])
def test_what_is_not_json_is_refused(value: fastjson.Json) -> None:
    with pytest.raises(TypeError, match=r"is not JSON$"):
        fastjson.dumps(value)


def test_nesting_without_end_is_refused() -> None:
    with pytest.raises(ValueError):
        fastjson.loads("[" * 200_000)


def test_a_text_that_is_cut_is_refused_also_where_the_json_package_is_not_loaded() -> None:
    import subprocess
    import sys

    code = "import sys\nfrom pybox import fastjson\ntry: fastjson.loads('{\"a')\nexcept ValueError: print('json' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
