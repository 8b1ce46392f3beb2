"""pybox.testing: a pytest plugin. The fixture ``box`` gives a test containers of its own, and takes them away again at its end.

    @pytest.mark.box(image="busybox", memory="64M")
    def test_it(box):
        (box.files / "in").write_text("hello")
        assert box.run(["cat", "in"]).stdout == b"hello"

pytest finds it by its entry point (pyproject.toml) and loads it into every run of everybody who has pybox installed. So this module
imports nothing but what pytest has loaded already; all else waits for the first test that asks for a box. See docs/testing.md.
"""

from __future__ import annotations

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from pybox.process import Process
    from pybox.result import Result

WORK = "/box"  # where a test's files are, inside


class Box:
    """A test's own containers: one after the other with `run`, some in the background with `start`.

    They share ``files``, the test's own directory on the host, which is their working directory.
    """

    def __init__(self, files: Path, options: dict[str, Any]) -> None:
        self.files = files
        self.options = options
        self._started: list[Process] = []

    def _asked(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of one container: the marker's, and over them its own."""
        from pybox.spec import Mount

        asked = {"workdir": WORK, **self.options, **options}
        mounts = asked.get("mounts") or ()
        more = [f"{source}:{target}" for source, target in mounts.items()] if hasattr(mounts, "items") else mounts
        return {**asked, "mounts": [Mount(WORK, source=str(self.files)), *more]}

    def run(self, args: Sequence[str] = (), **options: Any) -> Result:
        """Run a command to its end; options and exceptions are those of pybox.run, and ``image``."""
        from pybox.api import run

        asked = self._asked(options)
        return run(asked.pop("image"), args, **asked)

    def start(self, args: Sequence[str] = (), **options: Any) -> Process:
        """Start a container that runs beside the test until its end; options and exceptions are those of pybox.popen, and ``image``."""
        from pybox.process import popen

        asked = self._asked(options)
        process = popen(asked.pop("image"), args, **asked)
        self._started.append(process)
        return process

    def close(self) -> None:
        """Kill what still runs, the last one first, and wait for its end."""
        while self._started:
            self._started.pop().close()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --box-image."""
    parser.getgroup("pybox").addoption("--box-image", metavar="IMAGE", help="image of tests that name none (default: busybox)")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "box(image=..., **options): what the fixture `box` runs; the options are those of pybox.run"
    )


def _options(node: pytest.Item) -> dict[str, Any]:
    """Return what the markers ask for: the nearest one's word counts. What can't be meant is the test's failure."""
    options: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers("box"))):
        if marker.args:
            pytest.fail(f"pytest.mark.box: {marker.args[0]!r} has no name; write box(image='busybox')", pytrace=False)
        options.update(marker.kwargs)
    from pybox.api import Container

    unknown = sorted(options.keys() - Container.__annotations__.keys() - {"image", "timeout"})
    if unknown:
        pytest.fail(f"pytest.mark.box: no option {unknown[0]!r}; they are image, timeout and those of pybox.run", pytrace=False)
    return options


@pytest.fixture(scope="session")
def _box_trouble() -> dict[tuple[str, bool], str]:
    """Why no container of an image can be made here, by image; asked once in each worker."""
    return {}


@pytest.fixture
def box(request: pytest.FixtureRequest, tmp_path: Path, _box_trouble: dict[tuple[str, bool], str]) -> Iterator[Box]:
    """Containers of the test's own, with ``tmp_path`` as their working directory; gone at its end."""
    options = _options(request.node)
    options.setdefault("image", request.config.getoption("--box-image") or "busybox")
    key = options["image"], bool(options.get("userns"))
    if key not in _box_trouble:
        _box_trouble[key] = _trouble(*key)
    if _box_trouble[key]:
        pytest.skip(_box_trouble[key])
    made = Box(tmp_path, options)
    try:
        yield made
    finally:
        made.close()


def _trouble(image: str, userns: bool) -> str:
    """Return why no container of an image can be made here, "" when one can: what a test is skipped for."""
    from pybox.api import run
    from pybox.errors import ImageNotFound, PyboxError
    from pybox.failures import ExecError, ProgramNotFound

    try:
        run(image, ["true"], userns=userns)
    except (ExecError, ProgramNotFound):  # it was made, and that is all that was asked
        pass
    except ImageNotFound as error:
        return f"pybox has no image {image}: {error.hint or error.message}"
    except (PyboxError, OSError) as error:
        hint = getattr(error, "hint", None)
        return f"no container can be made here: {error}" + (f" ({hint})" if hint else "")
    return ""
