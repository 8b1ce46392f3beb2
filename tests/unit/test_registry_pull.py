"""Pulling from a registry that may be slow, broken or hostile: the image is there whole, or the failure has a name."""

from __future__ import annotations

import base64
import gzip
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_registry import INDEX, MANIFEST, Handler, Server, packed, serving, sha
from image_tars import contents, dirs, entry, tar

from pybox.dirs import Dirs
from pybox.errors import ImageError
from pybox.image import store
from pybox.image.stream import compressed
from pybox.registry.pull import pull
from pybox.registry.wire import Manner

FAST = Manner(pauses=(0.001, 0.001, 0.001))
ONE = tar(entry("one", data=os.urandom(700_000)))
TWO = tar(entry("two", data=b"2" * 1000))
MANIFEST_PATH = "/v2/tool/manifests/latest"


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No proxy, no password and no configuration of whoever runs the tests."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", "/dev/null")
    for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    return tmp_path / "auth.json"


@pytest.fixture
def there() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def here(tmp_path: Path) -> Dirs:
    return dirs(tmp_path)


def has_one(here: Dirs, name: str) -> bool:
    """Whether the image is there with the contents of ONE."""
    path = store.find(here, name).layers[-1]
    return (Path(path) / "one").stat().st_size == 700_000


def test_an_image_comes_in_and_is_then_up_to_date_with_one_question(here: Dirs, there: Server) -> None:
    digest = there.image(ONE, TWO)
    pulled = pull(here, f"{there.host}/tool", FAST)
    assert pulled.fresh and pulled.digest == digest and has_one(here, f"{there.host}/tool:latest")
    assert store.find(here, f"{there.host}/tool").config.cmd == ("sh",)
    there.seen.clear()
    assert not pull(here, f"{there.host}/tool", FAST).fresh
    assert there.asked("/v2/tool/") == [f"HEAD {MANIFEST_PATH}"]


def test_a_tag_that_moved_brings_only_the_layers_that_are_new(here: Dirs, there: Server) -> None:
    there.image(ONE)
    old = pull(here, f"{there.host}/tool", FAST)
    there.image(ONE, TWO)
    there.seen.clear()
    new = pull(here, f"{there.host}/tool", FAST)
    assert new.fresh and new.id != old.id and store.find(here, f"{there.host}/tool").id == new.id
    assert len([path for path in there.asked("/blobs/") if path.startswith("GET")]) == 2  # the configuration and one layer


def test_a_digest_is_pulled_and_found_again(here: Dirs, there: Server) -> None:
    digest = there.image(ONE, tag="")
    pull(here, f"{there.host}/tool@{digest}", FAST)
    assert has_one(here, f"{there.host}/tool@{digest}") and store.names(here) == {}
    there.seen.clear()
    assert not pull(here, f"{there.host}/tool@{digest}", FAST).fresh and there.seen == []


@pytest.mark.parametrize("pack", [bytes, packed, lambda data: b"".join(compressed("zstd", iter((data,))))])
def test_layers_may_be_plain_gzip_or_zstd(here: Dirs, there: Server, pack: Callable[[bytes], bytes]) -> None:
    there.image(ONE, pack=pack)
    pull(here, f"{there.host}/tool", FAST)
    assert has_one(here, f"{there.host}/tool")


def index(there: Server, *platforms: tuple[str, str, str]) -> str:
    """Hold an index of (digest, architecture, variant)."""
    entries = [
        {
            "mediaType": MANIFEST,
            "digest": digest,
            "size": len(there.manifests[digest][1]),
            "platform": {"os": "linux", "architecture": machine, **({"variant": variant} if variant else {})},
        }
        for digest, machine, variant in platforms
    ]
    return there.put(json.dumps({"schemaVersion": 2, "manifests": entries}).encode(), INDEX, "latest")


def test_an_index_gives_the_image_for_this_machine_or_the_one_asked_for(here: Dirs, there: Server) -> None:
    mine, other = there.image(ONE, tag=""), there.image(TWO, tag="")
    top = index(there, (other, "riscv64", ""), (mine, store.architecture(), ""), (other, "arm", "v7"))
    assert pull(here, f"{there.host}/tool", FAST).digest == top and has_one(here, f"{there.host}/tool")
    assert not pull(here, f"{there.host}/tool", FAST).fresh
    assert pull(here, f"{there.host}/tool", FAST, platform="arm/v7").fresh
    assert os.path.exists(f"{store.find(here, f'{there.host}/tool').layers[0]}/two")
    with pytest.raises(ImageError, match=r"an image for .*linux/arm/v7.*, not for linux/arm/v6"):
        pull(here, f"{there.host}/tool", FAST, platform="arm/v6")


# What goes wrong on the way


def test_a_broken_download_goes_on_where_it_broke(here: Dirs, there: Server) -> None:
    there.image(ONE)
    blob = packed(ONE)
    cuts = iter((100_000, 50_000, 0))

    def break_off(request: Handler) -> bool:
        if not request.path.endswith(sha(blob)) or (after := next(cuts, None)) is None:
            return False
        start = int((request.headers.get("Range") or "=0-").partition("=")[2].rstrip("-"))
        if start:
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(blob) - 1}/{len(blob)}")
            request.send_header("Content-Length", str(len(blob) - start))
            request.end_headers()
            request.wfile.write(blob[start : start + after])
            request.close_connection = True
        else:
            request.cut(blob, after)
        return True

    there.instead = break_off
    pull(here, f"{there.host}/tool", FAST)
    ranges = [headers.get("Range") for _, path, headers in there.seen if path.endswith(sha(blob))]
    assert ranges == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-"] and has_one(here, f"{there.host}/tool")


def test_a_registry_that_cannot_send_a_part_sends_the_whole_again(here: Dirs, there: Server) -> None:
    there.image(ONE)
    blob, there.parts = packed(ONE), False
    once = iter((True,))
    there.instead = lambda request: request.path.endswith(sha(blob)) and next(once, False) and (request.cut(blob, 99), True)[1]
    pull(here, f"{there.host}/tool", FAST)
    assert has_one(here, f"{there.host}/tool")


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_passes_is_tried_again(here: Dirs, there: Server, status: int) -> None:
    there.image(ONE)
    times = iter((True, True))
    there.instead = lambda request: "/tool/" in request.path and next(times, False) and (request.reply(status), True)[1]
    pull(here, f"{there.host}/tool", FAST)
    assert has_one(here, f"{there.host}/tool")


def corrupt(there: Server) -> None:
    blob = packed(ONE)
    there.blobs[sha(blob)] = blob[:-9] + bytes((blob[-9] ^ 1,)) + blob[-8:]


def forged(there: Server) -> None:
    there.blobs[sha(packed(ONE))] = gzip.compress(ONE, 1, mtime=0)  # the right content in the wrong blob


def shorter(there: Server) -> None:
    there.blobs[sha(packed(ONE))] = packed(ONE)[:-100]


def always(path: str, status: int, body: bytes = b"", **headers: str) -> Callable[[Server], None]:
    """Return a fault: everything that ends in ``path`` is answered by ``status``."""

    def fault(there: Server) -> None:
        there.instead = lambda request: path in request.path and (request.reply(status, body, **headers), True)[1]

    return fault


def vanished(there: Server) -> None:
    """HEAD still knows the tag, GET does not."""
    there.instead = lambda request: (
        request.command == "GET" and request.path == MANIFEST_PATH and (request.reply(404, b"gone"), True)[1]
    )


def lies(there: Server) -> None:
    there.manifests["latest"] = MANIFEST, there.manifests["latest"][1] + b" "
    body = there.manifests["latest"][1]
    there.instead = lambda request: (
        request.path == MANIFEST_PATH
        and (request.reply(200, body, Content_Type=MANIFEST, Docker_Content_Digest=sha(b"")), True)[1]
    )


BLOB = sha(packed(ONE))
FAULTS: dict[str, tuple[Callable[[Server], None], str]] = {
    "corrupt blob": (corrupt, rf"layer {BLOB[7:19]}: .*(damaged|digest|content)"),
    "another blob": (forged, rf"layer {BLOB[7:19]}: damaged: its blob has \d+ bytes, not \d+"),
    "blob too short": (shorter, rf"layer {BLOB[7:19]}: damaged: its blob has \d+ bytes, not \d+ as its manifest says"),
    "blob gone": (always("/blobs/" + BLOB, 404), f"no such blob: {BLOB}"),
    "unknown type": (
        always("/manifests/", 200, b"{}", Content_Type="application/vnd.cncf.helm"),
        "a manifest of type 'application/vnd.cncf.helm', which is no image",
    ),
    "schema 1": (
        always("/manifests/", 200, b"{}", Content_Type="application/vnd.docker.distribution.manifest.v1+prettyjws"),
        "docker's schema 1",
    ),
    "no JSON": (always("/manifests/", 200, b"<html>", Content_Type=MANIFEST), "an image manifest is not JSON"),
    "401": (always("/manifests/", 401), "it wants to know who we are"),
    "403": (always("/manifests/", 403), "it wants to know who we are|access denied"),
    "404": (always("/manifests/", 404), "no such tag: latest"),
    "429": (always("/manifests/", 429), "too many requests"),
    "429 for long": (always("/manifests/", 429, Retry_After="3600"), "too many requests"),
    "500": (always("/manifests/", 500), "HTTP status 500"),
    "503 with words": (
        always("/manifests/", 503, b'{"errors": [{"code": "X", "message": "closed for \\u001b[1m repairs"}]}'),
        r"HTTP status 503 \(closed for \\x1b\[1m repairs\)",
    ),
    "418": (always("/blobs/", 418), "HTTP status 418"),
    "a manifest that is another": (lies, "its manifest is sha256:.*, not sha256:e3b0c"),
    "a vanished tag": (vanished, "no such tag: latest"),
    "no web address": (always("/manifests/", 307, Location="file:///etc/passwd"), "which is no web address"),
    "no address at all": (always("/manifests/", 307, Location="http://[x"), "to 'http://.x', which is no web address"),
    "an address in Latin-1": (always("/manifests/", 307, Location="/\xff"), r"to '/\\xff', which is no web address"),
    "a host that can't be": (always("/manifests/", 307, Location="http://a..b/"), r"a\.\.b: no host can have such a name"),
    "a token server that can't be": (
        always("/manifests/", 401, WWW_Authenticate='Bearer realm="https://[x"'),
        "its token server is 'https://.x', which is no web address",
    ),
    "a length of superscripts": (always("/blobs/" + BLOB, 206, b"x", Content_Range="bytes \xb2-"), "not a tar"),
    "round and round": (always("/manifests/", 307, Location=MANIFEST_PATH), "sends us on and on"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_failure_has_a_name_and_leaves_nothing(here: Dirs, there: Server, name: str) -> None:
    fault, message = FAULTS[name]
    there.image(TWO, ONE)
    fault(there)
    with pytest.raises(ImageError, match=message) as caught:
        pull(here, f"{there.host}/tool", FAST)
    assert (caught.value.message.isprintable() and there.host in caught.value.message) or name in (
        "no JSON",
        "a host that can't be",
    )
    assert not os.path.exists(here.store) or contents(here.store) == set()


def test_a_download_that_never_goes_on_says_how_far_it_came(here: Dirs, there: Server) -> None:
    there.image(ONE)
    blob = packed(ONE)
    there.instead = lambda request: (
        request.path.endswith(sha(blob))
        and (("Range" in request.headers and (request.reply(500), True)[1]) or (request.cut(blob, 999), True)[1])
    )
    with pytest.raises(ImageError, match=r"HTTP status 500|after 999 of"):
        pull(here, f"{there.host}/tool", FAST)
    assert contents(here.store) == set()


def test_a_server_that_is_not_there_is_named(here: Dirs) -> None:
    with serving() as server:
        host = server.host
    with pytest.raises(ImageError, match=f"{host}: Connection refused"):
        pull(here, f"{host}/tool", FAST)


def test_a_server_that_takes_no_connection_is_given_up_at_once(here: Dirs) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as queue:
        address = full.getsockname()
        for _ in range(3):  # what the kernel takes for it; nobody accepts
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        with pytest.raises(ImageError, match="it does not answer"):
            pull(here, f"localhost:{address[1]}/tool", Manner(pauses=(60, 60), connect=0.05))


# Who we are


def password(nobody: Path, host: str, pair: str = "me:secret") -> None:
    nobody.write_text(json.dumps({"auths": {host: {"auth": base64.b64encode(pair.encode()).decode()}}}))


def guarded(there: Server, pair: str = "me:secret", realm: str = "") -> None:
    """Let in who has a token for the right repository; the token server is the same one, and wants a password."""
    basic = "Basic " + base64.b64encode(pair.encode()).decode()

    def guard(request: Handler) -> bool:
        if request.path.startswith("/token"):
            if request.headers.get("Authorization") == basic:
                assert "service=here" in request.path
                kind = "push" if "push" in request.path else "pull"
                request.reply(200, json.dumps({"token": f"t-{kind}"}).encode())
            else:
                request.reply(401, b'{"details": "incorrect username or password"}')
            return True
        wanted = ("Bearer t-push",) if request.command in ("PUT", "POST") else ("Bearer t-pull", "Bearer t-push")
        if request.headers.get("Authorization") in wanted:
            return False
        challenge = f'Bearer realm="{realm or f"http://{there.host}/token"}",service="here",scope="whatever"'
        request.reply(401, WWW_Authenticate=challenge)
        return True

    there.instead = guard
