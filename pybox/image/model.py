"""Image: what a run needs to know of an image, and nothing else."""

from __future__ import annotations

from pybox.record import Record


class ImageConfig(Record):
    """The defaults an image brings: OCI image-spec config.md, the part that a run uses."""

    env: tuple[str, ...] = ()  # "NAME=value"
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""  # as in --user: name or id[:group]
    workdir: str = ""
    stop_signal: str = ""
    ports: tuple[str, ...] = ()  # that it exposes: "80/tcp"


class Image(Record):
    """An image on disk: layers to stack, topmost first, and the defaults for the command."""

    name: str  # as the user may type it; "host" is the machine's own root
    id: str  # "sha256:<hex>" of the config blob; "host" for the host image
    layers: tuple[str, ...]  # absolute paths of unpacked layers, topmost first
    config: ImageConfig = ImageConfig()
    architecture: str = ""  # as in OCI (GOARCH names): amd64, arm64
