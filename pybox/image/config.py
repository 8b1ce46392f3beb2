"""The image configuration: the JSON whose sha256 is the image's id. OCI image-spec config.md; docker's has the same fields."""

from __future__ import annotations

import hashlib
import json

from pybox.errors import ImageError
from pybox.image.model import ImageConfig
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

JSON_MAX = 8 << 20  # bytes of any one JSON document of an archive


class Config(Record):
    """A parsed configuration, with the bytes it was parsed from."""

    id: str  # "sha256:<hex>" of the blob
    blob: bytes
    diff_ids: tuple[str, ...]  # lowest first
    run: ImageConfig
    architecture: str
    created: str  # RFC 3339; "" if unknown


def parse(blob: bytes) -> Config:
    """Parse a configuration blob. Raises ImageError saying which field is wrong."""
    document = obj(load(blob, "the image configuration"), "the image configuration")
    system = text(document, "os") or "linux"
    if system != "linux":
        raise ImageError(f"an image for {system}, not for linux")
    rootfs = obj(document.get("rootfs"), "rootfs of the image configuration")
    diff_ids = strings(rootfs, "diff_ids")
    if not diff_ids:
        raise ImageError("an image without layers")
    for diff_id in diff_ids:
        check_digest(diff_id, "diff_ids")
    config = obj(document.get("config") or {}, "config of the image configuration")
    run = ImageConfig(
        env=strings(config, "Env"),
        entrypoint=strings(config, "Entrypoint"),
        cmd=strings(config, "Cmd"),
        user=text(config, "User"),
        workdir=text(config, "WorkingDir"),
        stop_signal=text(config, "StopSignal"),
        ports=tuple(obj(config.get("ExposedPorts") or {}, "ExposedPorts")),
    )
    digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
    return Config(digest, blob, diff_ids, run, text(document, "architecture"), text(document, "created"))


def make(diff_id: str, run: ImageConfig, architecture: str, created: str, comment: str) -> Config:
    """Return the configuration of an image of one layer."""
    config: dict[str, Json] = {
        "Env": run.env,
        "Entrypoint": run.entrypoint,
        "Cmd": run.cmd,
        "User": run.user,
        "WorkingDir": run.workdir,
        "StopSignal": run.stop_signal,
    }
    document: dict[str, Json] = {
        "architecture": architecture,
        "config": {key: value for key, value in config.items() if value},
        "created": created,
        "history": [{"created": created, "created_by": comment}],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    return parse(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())


def load(blob: bytes, what: str) -> Json:
    """Parse JSON from an archive. Raises ImageError, also for half a surrogate pair: no file name and no argument can spell it."""
    try:
        found: Json = json.loads(blob.decode("utf-8"))
        if b"\\ud" in blob.lower():  # what stands for a byte that is no UTF-8 (PEP 383) is taken
            json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ImageError(f"{what} has half a surrogate pair in a text") from None
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what} is not JSON: {error}") from None
    return found


def obj(value: Json, what: str) -> dict[str, Json]:
    """Return the value as an object. Raises ImageError."""
    if not isinstance(value, dict):
        raise ImageError(f"{what} is not a JSON object")
    return value


def text(document: dict[str, Json], field: str) -> str:
    """Return a text field; absent or null is "". Raises ImageError; no text of an image may hold a zero byte."""
    value = document.get(field)
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise ImageError(f"{field} is not a text: {value!a:.60}")
    return value


def strings(document: dict[str, Json], field: str) -> tuple[str, ...]:
    """Return a list of texts; absent or null is empty. Raises ImageError."""
    value = document.get(field)
    if value is None:
        return ()
    if not isinstance(value, list) or any(not isinstance(item, str) or "\0" in item for item in value):
        raise ImageError(f"{field} is not a list of texts: {value!a:.60}")
    return tuple(str(item) for item in value)


def objects(document: dict[str, Json], field: str) -> tuple[dict[str, Json], ...]:
    """Return a list of objects; absent or null is empty. Raises ImageError."""
    value = document.get(field)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ImageError(f"{field} is not a list")
    return tuple(obj(item, f"an item of {field}") for item in value)


def check_digest(digest: str, what: str) -> str:
    """Return a "sha256:<64 hex>" digest. Raises ImageError for anything else, paths above all."""
    algorithm, _, hexadecimal = digest.partition(":")
    if algorithm != "sha256" or len(hexadecimal) != 64 or hexadecimal.strip("0123456789abcdef"):
        raise ImageError(f"{what}: {digest[:100]!a} is not a sha256 digest")
    return digest
