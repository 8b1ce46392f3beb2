"""Who we are to a registry: passwords and tokens go to whom they are for, and are found where docker and podman keep them."""

# ruff: noqa: F811

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from fake_registry import Server, serving
from test_registry_pull import FAST, ONE, TWO, guarded, has_one, here, nobody, password, there  # noqa: F401

from pybox.dirs import Dirs
from pybox.errors import ImageError
from pybox.registry import secrets
from pybox.registry.pull import pull


def test_a_token_is_asked_for_once_and_with_the_password(here: Dirs, there: Server, nobody: Path) -> None:
    there.image(ONE, TWO)
    guarded(there)
    password(nobody, there.host)
    pull(here, f"{there.host}/tool", FAST)
    assert has_one(here, f"{there.host}/tool")
    assert there.asked("/token") == ["GET /token?service=here&scope=repository%3Atool%3Apull"]


def test_a_wrong_password_is_said_to_be_wrong(here: Dirs, there: Server, nobody: Path) -> None:
    there.image(ONE)
    guarded(there)
    password(nobody, there.host, "me:wrong")
    with pytest.raises(ImageError, match=r"user or password is wrong \(incorrect username") as caught:
        pull(here, f"{there.host}/tool", FAST)
    assert caught.value.hint == f"pybox login {there.host}" and "wrong:" not in caught.value.message


def test_basic_authentication_is_answered(here: Dirs, there: Server, nobody: Path) -> None:
    there.image(ONE)
    basic = "Basic " + base64.b64encode(b"me:secret").decode()
    there.instead = lambda request: (
        request.headers.get("Authorization") != basic and (request.reply(401, WWW_Authenticate='Basic realm="r"'), True)[1]
    )
    password(nobody, there.host)
    pull(here, f"{there.host}/tool", FAST)
    assert has_one(here, f"{there.host}/tool")


def test_a_redirect_to_another_host_takes_no_secret_along(here: Dirs, there: Server, nobody: Path) -> None:
    there.image(ONE)
    guarded(there)
    password(nobody, there.host)
    guard = there.instead
    assert guard is not None
    with serving() as other:
        other.blobs = there.blobs
        there.instead = lambda request: (
            guard(request)
            or ("/blobs/" in request.path and (request.reply(307, Location=f"http://{other.host}{request.path}"), True)[1])
        )
        pull(here, f"{there.host}/tool", FAST)
        assert has_one(here, f"{there.host}/tool")
        assert other.authorizations() == [None, None]  # the configuration and the layer


def test_a_challenge_of_another_host_is_not_answered(here: Dirs, there: Server, nobody: Path) -> None:
    there.image(ONE)
    password(nobody, there.host)
    with serving() as other:
        challenge = f'Bearer realm="http://{other.host}/token"'
        other.instead = lambda request: (request.reply(401, WWW_Authenticate=challenge), True)[1]
        there.instead = lambda request: (
            "/blobs/" in request.path and (request.reply(307, Location=f"http://{other.host}/x"), True)[1]
        )
        with pytest.raises(ImageError, match="it wants to know who we are"):
            pull(here, f"{there.host}/tool", FAST)
        assert other.asked("/token") == [] and other.authorizations() == [None]


@pytest.mark.parametrize(
    ("realm", "reason"), [("http://tokens.example/t", "speaks no TLS"), ("ftp://x/", "no web address"), ("", "no web address")]
)
def test_a_password_goes_to_no_token_server_that_could_leak_it(
    here: Dirs, there: Server, nobody: Path, realm: str, reason: str
) -> None:
    password(nobody, there.host)
    there.instead = lambda request: (request.reply(401, WWW_Authenticate=f'Bearer realm="{realm}"'), True)[1]
    with pytest.raises(ImageError, match=reason):
        pull(here, f"{there.host}/tool", FAST)


def test_a_credential_helper_is_asked(
    here: Dirs, there: Server, nobody: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.image(ONE)
    guarded(there)
    helper = tmp_path / "docker-credential-fake"
    helper.write_text(
        '#!/bin/sh\nread -r server\n[ "$1" = get ] || exit 1\n'
        f'[ "$server" = "{there.host}" ] || {{ echo credentials not found in native keychain; exit 1; }}\n'
        'echo \'{"Username": "me", "Secret": "secret"}\'\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    nobody.write_text(json.dumps({"credsStore": "fake"}))
    pull(here, f"{there.host}/tool", FAST)
    assert has_one(here, f"{there.host}/tool")


def test_what_login_keeps_find_finds_and_logout_forgets(nobody: Path) -> None:
    for registry in ("docker.io", "quay.io:443"):
        secrets.login(registry, secrets.Credentials("me", "s:ecret"))
        assert secrets.find(registry, "a/b") == secrets.Credentials("me", "s:ecret")
    assert nobody.stat().st_mode & 0o777 == 0o600 and b"s:ecret" not in nobody.read_bytes()
    assert secrets.logout("docker.io") and not secrets.logout("docker.io")
    assert secrets.find("docker.io") is None and secrets.find("quay.io:443") is not None


def test_the_most_specific_entry_counts(nobody: Path) -> None:
    entries = {
        "quay.io": "all:1",
        "quay.io/team": "team:2",
        "https://index.docker.io/v1/": "hub:3",
        "https://old.io/v1/": "old:4",
    }
    nobody.write_text(
        json.dumps({"auths": {name: {"auth": base64.b64encode(pair.encode()).decode()} for name, pair in entries.items()}})
    )
    found = {
        name: (who := secrets.find(*name)) and who.user
        for name in [
            ("quay.io", "team/tool"),
            ("quay.io", "other/tool"),
            ("docker.io", "library/x"),
            ("old.io", "x"),
            ("no.io", "x"),
        ]
    }
    assert list(found.values()) == ["team", "all", "hub", "old", None]


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": {"a.io": {"auth": "%"}}}'])
def test_a_damaged_file_is_named(nobody: Path, text: str) -> None:
    nobody.write_text(text)
    with pytest.raises(ImageError, match=str(nobody)):
        secrets.find("a.io")
