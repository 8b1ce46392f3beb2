"""pybox.pull and pybox.push: the stories of pull.py and push.py in the words of a Python program."""

from __future__ import annotations

from pybox import dirs
from pybox.errors import SpecError
from pybox.registry import pull as pulling
from pybox.registry.pull import Pulled
from pybox.registry.wire import Manner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.registry.pull import Watch


def pull(image: str, *, platform: str = "", tls_verify: bool = True, cert_dir: str = "", watch: Watch | None = None) -> Pulled:
    """Bring an image from its registry into the store; what is up to date costs one request.

    Args:
        image: as in `pybox pull`: ``"alpine"``, ``"quay.io/team/tool:2"``, ``"localhost:5000/x@sha256:..."``.
        platform: another than this machine's, ``"linux/arm64"``.
        tls_verify: False takes any certificate, and plain HTTP. cert_dir: a directory of authorities and of who we are.
        watch: told how far it is, from several threads; see `pybox.registry.pull.Watch`.

    Returns the image's ``id``, the ``digest`` of its manifest, and whether anything was downloaded (``fresh``).

    Raises:
        Refused: the registry answered no; ``status`` is HTTP's: 401 and 403 need `pybox login`, 404 is no such image.
        Unreachable: no server could be talked to, also after several tries. Trying again goes on with the layer it was at.
        ImageError: what came is damaged, forged, or no image for this platform; SpecError: an impossible platform.
    """
    return pulling.pull(
        dirs.current(), image, Manner(tls_verify=tls_verify, cert_dir=cert_dir), watch, platform=machine(platform)
    )


def push(
    image: str,
    target: str = "",
    *,
    format: str = "oci",
    compression: str = "",
    tls_verify: bool = True,
    cert_dir: str = "",
    watch: Watch | None = None,
) -> str:
    """Bring an image of the store to a registry, under its own name or another; returns the digest of its manifest.

    Args:
        image, target: names; what the registry has already is not sent again.
        format: of the manifest, ``"oci"`` or ``"docker"``. compression: of new layers: ``"gzip"``, ``"zstd"`` or ``"none"``.
        tls_verify, cert_dir, watch: as of `pull`.

    Raises: as `pull`, and ImageNotFound for an image that is not in the store.
    """
    from pybox.registry import push as pushing

    manner, shape = Manner(tls_verify=tls_verify, cert_dir=cert_dir), pushing.Shape(format, compression)
    return pushing.push(dirs.current(), image, target, manner, watch, shape)


def machine(platform: str) -> str:
    """Return ARCHITECTURE[/VARIANT] of a platform as it is typed, "" for this machine. Raises SpecError."""
    if not platform:
        return ""
    system, _, found = platform.partition("/")
    if system != "linux" or not found or found.count("/") > 1:
        raise SpecError("platform", platform, "not linux/ARCHITECTURE[/VARIANT]", "e.g. --platform linux/arm64")
    return found
