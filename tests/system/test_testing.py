"""pybox.testing: what the pytest plugin promises to the tests of others."""

from __future__ import annotations

import textwrap

import pytest
from test_process import alone

pytest_plugins = ("pytester",)


def outcome(pytester: pytest.Pytester, test: str, *words: str) -> tuple[dict[str, int], str]:
    """Run tests as somebody else would; returns how many passed and so on, and all that was said."""
    pytester.makepyfile("import pytest\n" + textwrap.dedent(test))
    done = pytester.runpytest_inprocess("-rs", "-p", "no:cacheprovider", "--strict-markers", *words)
    return done.parseoutcomes(), str(done.stdout) + str(done.stderr)


def test_a_test_has_a_box_of_its_own_and_files_go_in_and_out(pytester: pytest.Pytester) -> None:
    test = """
        def test_files(box, tmp_path):
            (box.files / "in").write_text("hello")
            assert box.files == tmp_path
            assert box.run(["sh", "-c", "cat in; pwd; echo $COLOUR >out"], env={"COLOUR": "red"}).stdout == b"hello/box\\n"
            assert (tmp_path / "out").read_text() == "red\\n"

        def test_another(box):
            assert box.run(["ls"]).stdout == b""
    """
    assert outcome(pytester, test)[0] == {"passed": 2}


def test_options_come_from_markers_and_the_nearest_word_counts(pytester: pytest.Pytester) -> None:
    test = """
        pytestmark = pytest.mark.box(hostname="outer", env={"COLOUR": "red"})

        @pytest.mark.box(hostname="inner", mounts={"/usr": "/host"}, timeout=60)
        def test_it(box):
            assert box.run(["sh", "-c", "hostname; echo $COLOUR; ls -d /host/bin"]).stdout.split() == [b"inner", b"red", b"/host/bin"]
            assert box.run(["sh", "-c", "hostname"], hostname="mine").stdout == b"mine\\n"
    """
    assert outcome(pytester, test)[0] == {"passed": 1}


def test_what_is_started_runs_beside_the_test_and_ends_with_it(pytester: pytest.Pytester) -> None:
    test = """
        import pybox

        def test_it(box):
            server = box.start(["sh", "-c", "echo ready; sleep 1000"], stdout=pybox.PIPE)
            assert server.stdout.readline() == b"ready\\n" and server.poll() is None
            box.start(["sleep", "1000"])
            raise ZeroDivisionError
    """
    assert outcome(pytester, test)[0] == {"failed": 1} and alone()


def test_the_image_can_be_chosen_on_the_command_line(pytester: pytest.Pytester) -> None:
    test = """
        def test_it(box):
            assert box.options["image"] == "host" and box.run(["true"]).ok

        @pytest.mark.box(image="busybox")
        def test_that_names_its_own(box):
            assert box.run(["true"]).image == "busybox"
    """
    assert outcome(pytester, test, "--box-image", "host")[0] == {"passed": 2}


def test_where_no_container_can_be_made_the_test_is_skipped_and_says_why(pytester: pytest.Pytester) -> None:
    counts, text = outcome(pytester, "@pytest.mark.box(image='nosuch')\ndef test_it(box):\n    assert 0")
    assert counts == {"skipped": 1} and "pybox has no image nosuch: " in text


def test_options_that_do_not_exist_fail_in_one_line(pytester: pytest.Pytester) -> None:
    counts, text = outcome(
        pytester,
        "@pytest.mark.box(memroy='64M')\ndef test_one(box):\n    pass\n@pytest.mark.box('busybox')\ndef test_two(box):\n    pass",
    )
    assert (
        counts == {"errors": 2} and "no option 'memroy'" in text and "'busybox' has no name" in text and "Traceback" not in text
    )


def test_a_fixture_of_somebody_elses_of_that_name_goes_before_ours(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef box():\n    return 7\n")
    assert outcome(pytester, "def test_it(box):\n    assert box == 7")[0] == {"passed": 1}
