"""Whether a layer is in place, asked while another pybox removes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pybox.dirs import Dirs
from pybox.errors import ImageError
from pybox.image import changes, layerfile, store

DIFF_ID = "sha256:" + "ab" * 32


def test_one_that_is_removed_while_it_is_looked_at_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dirs = Dirs(str(tmp_path / "store"), str(tmp_path / "state"))
    folder = Path(dirs.layers, store.layer_key(DIFF_ID))
    folder.mkdir(parents=True)
    with pytest.raises(ImageError, match="is damaged"):
        changes.present(dirs, DIFF_ID)
    real = layerfile.read

    def removed_first(path: str) -> layerfile.Layer:
        folder.rmdir()
        return real(path)

    monkeypatch.setattr(layerfile, "read", removed_first)
    assert not changes.present(dirs, DIFF_ID)
