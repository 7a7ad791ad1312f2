"""Credentials are found, stored and removed as containers-auth.json(5) and docker have it."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.registry.auth_file import AuthFile
from sandbox.images.registry.credential import Credential
from sandbox.images.registry.credentials import CredentialStore

SECRET = "s3cr3t-pass:word"


def entry(user: str, secret: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{secret}".encode()).decode()}


def write(path: Path, content: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def user(store: CredentialStore, registry: str, path: str = "") -> str | None:
    found = store.find(registry, path)
    return None if found is None else found.user


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {
        "HOME": str(tmp_path / "home"),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "PATH": f"{tmp_path / 'bin'}:{os.defpath}",
    }


def test_the_files_are_read_in_the_order_of_the_page(environ: dict[str, str], tmp_path: Path) -> None:
    store = CredentialStore(environ)
    assert user(store, "a.com") is None
    legacy = write(tmp_path / "home/.dockercfg", {"https://a.com/v1/": entry("legacy")})
    assert user(store, "a.com") == "legacy"
    assert CredentialStore(environ, str(legacy)).find("a.com") is None  # as --authfile, it has no other form
    order = [
        tmp_path / "home/.docker/config.json",
        tmp_path / "home/.config/containers/auth.json",
        tmp_path / "run/containers/auth.json",
    ]
    for number, path in enumerate(order):
        write(path, {"auths": {"a.com": entry(f"user{number}")}})
        found = store.find("a.com")
        assert found == Credential(user=f"user{number}", secret=SECRET, origin=str(path))
    other = write(tmp_path / "other.json", {"auths": {"a.com": entry("other")}})
    assert user(CredentialStore({**environ, "REGISTRY_AUTH_FILE": str(other)}), "a.com") == "other"
    given = write(tmp_path / "given.json", {"auths": {"b.com": entry("given")}})
    only = CredentialStore({**environ, "REGISTRY_AUTH_FILE": str(other)}, str(given))
    assert (user(only, "b.com"), user(only, "a.com")) == ("given", None)


def test_variables_move_the_files(tmp_path: Path) -> None:
    write(tmp_path / "config/containers/auth.json", {"auths": {"a.com": entry("config")}})
    write(tmp_path / "docker/config.json", {"auths": {"b.com": entry("docker")}})
    store = CredentialStore(
        {"XDG_CONFIG_HOME": str(tmp_path / "config"), "DOCKER_CONFIG": str(tmp_path / "docker")}
    )
    assert (user(store, "a.com"), user(store, "b.com")) == ("config", "docker")


def test_a_named_file_that_does_not_exist_is_an_error(environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="absent: no such file"):
        CredentialStore(environ, str(tmp_path / "absent")).find("a.com")


def test_the_most_specific_key_decides(environ: dict[str, str], tmp_path: Path) -> None:
    keys = ["my.local", "my.local/ns", "my.local/ns/user", "my.local/ns/user/image", "my.local/ns/us"]
    path = tmp_path / "run/containers/auth.json"
    store = CredentialStore(environ)
    for count, expected in ((1, "my.local"), (2, "my.local/ns"), (3, "my.local/ns/user"), (5, keys[3])):
        write(path, {"auths": {key: entry(key) for key in keys[:count]}})
        assert user(store, "my.local", "ns/user/image") == expected
    assert user(store, "my.local", "other") == "my.local"
    assert user(store, "my.local:5000", "ns") is None


@pytest.mark.parametrize("key", ["docker.io", "https://index.docker.io/v1/"])
def test_docker_hub_has_the_key_that_docker_writes(environ: dict[str, str], tmp_path: Path, key: str) -> None:
    write(tmp_path / "home/.docker/config.json", {"auths": {key: entry("me")}})
    assert user(CredentialStore(environ), "docker.io", "library/debian") == "me"


def test_forms_of_docker_are_read(environ: dict[str, str], tmp_path: Path) -> None:
    auths = {
        "a.com": {"username": "plain", "password": "x"},
        "b.com": {"auth": base64.b64encode(b"me:pass\0\0").decode()},
        "c.com": {"auth": base64.b64encode(b"<token>:").decode(), "identitytoken": "long"},
        "d.com": {},
        "https://e.com/v1/": entry("old"),
    }
    write(tmp_path / "home/.docker/config.json", {"auths": auths, "HttpHeaders": {}})
    store = CredentialStore(environ)
    assert user(store, "a.com") == "plain"
    found = store.find("b.com")
    assert found is not None
    assert (found.user, found.secret) == ("me", "pass")
    token = store.find("c.com")
    assert token is not None
    assert (token.is_token, token.secret) == (True, "long")
    assert (user(store, "d.com"), user(store, "e.com")) == (None, "old")


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        f'{{"auths": {"[" * 200_000}',
        '{"auths": []}',
        '{"auths": {"a.com": []}}',
        '{"auths": {"a.com": {"auth": 5}}}',
        '{"auths": {"a.com": {"auth": "%%"}}}',
        '{"auths": {"a.com": {"auth": "c2VjcmV0"}}}',
        '{"auths": {"a.com": {"auth": "/////w=="}}}',
        '{"credHelpers": 5}',
        '{"credHelpers": {"a.com": "../../bin/sh"}}',
        '{"credsStore": ["x"]}',
    ],
)
def test_a_malformed_file_is_an_error_that_names_it_without_its_content(
    environ: dict[str, str], tmp_path: Path, content: str
) -> None:
    path = tmp_path / "auth.json"
    path.write_text(content)
    with pytest.raises(ImageError) as failed:
        CredentialStore(environ, str(path)).find("a.com")
    assert str(path) in failed.value.message
    assert "c2VjcmV0" not in failed.value.render()


def test_what_is_no_regular_file_or_too_large_is_refused(environ: dict[str, str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageError, match="is not a regular file"):
        CredentialStore(environ, str(tmp_path / "fifo")).find("a.com")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ImageError, match="is larger than 1048576 bytes"):
        CredentialStore(environ, str(tmp_path / "large")).find("a.com")


# --- login and logout ---


def login(name: str = "me", secret: str = SECRET) -> Credential:
    return Credential(user=name, secret=secret, origin="this login")


names = st.text(st.characters(exclude_categories=["C"], exclude_characters=":"), min_size=1, max_size=20)
secrets = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\n"), min_size=1, max_size=30
)


@given(names, secrets)
def test_what_is_stored_is_found_again(name: str, secret: str) -> None:
    stored = AuthFile.empty("p").with_credential("a.com", login(name, secret))
    assert json.loads(json.dumps(stored.content)) == stored.content
    assert stored.credential("a.com") == Credential(user=name, secret=secret, origin="p")


def test_a_login_keeps_everything_else_in_the_file(environ: dict[str, str], tmp_path: Path) -> None:
    before = {"auths": {"b.com": entry("other")}, "HttpHeaders": {"X": "y"}, "credHelpers": {"c.com": "pass"}}
    path = write(tmp_path / "run/containers/auth.json", before)
    os.chmod(path, 0o644)
    store = CredentialStore(environ)
    assert store.store("a.com/team", login()) == str(path)
    after = json.loads(path.read_text())
    assert after == {**before, "auths": {"b.com": entry("other"), "a.com/team": entry("me")}}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["auth.json"]
    assert (user(store, "a.com", "team/x"), user(store, "a.com", "x")) == ("me", None)
    removal = store.remove("a.com/team")
    assert (removal.removed, removal.left) == (str(path), None)
    assert json.loads(path.read_text()) == before


def test_a_first_login_makes_a_private_directory(environ: dict[str, str], tmp_path: Path) -> None:
    path = CredentialStore(environ).store("a.com", login())
    assert path == str(tmp_path / "run/containers/auth.json")
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    del environ["XDG_RUNTIME_DIR"]
    assert CredentialStore(environ).store("a.com", login()) == str(
        tmp_path / "home/.config/containers/auth.json"
    )
    with pytest.raises(ImageError, match="HOME is not set"):
        CredentialStore({}).store("a.com", login())


def test_a_symbolic_link_stays_and_its_target_is_replaced(environ: dict[str, str], tmp_path: Path) -> None:
    target = write(tmp_path / "dotfiles/auth.json", {})
    link = tmp_path / "auth.json"
    link.symlink_to(target)
    CredentialStore(environ, str(link)).store("a.com", login())
    assert link.is_symlink()
    assert json.loads(target.read_text()) == {"auths": {"a.com": entry("me")}}


def test_a_file_that_cannot_be_written_stays_as_it_was(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "auth.json", {"auths": {"b.com": entry("other")}})
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.rename", fail)
    with pytest.raises(ImageError, match=r"auth\.json: cannot be written: no space left on device"):
        CredentialStore(environ, str(path)).store("a.com", login())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["auth.json"]


def test_logins_at_the_same_time_lose_nothing(environ: dict[str, str], tmp_path: Path) -> None:
    store = CredentialStore(environ)
    threads = [
        threading.Thread(target=store.store, args=(f"host{number}.com", login())) for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = json.loads((tmp_path / "run/containers/auth.json").read_text())
    assert sorted(content["auths"]) == sorted(f"host{number}.com" for number in range(20))


def test_a_logout_leaves_the_files_of_other_programs_and_names_them(
    environ: dict[str, str], tmp_path: Path
) -> None:
    docker = write(tmp_path / "home/.docker/config.json", {"auths": {"a.com": entry("docker")}})
    store = CredentialStore(environ)
    removal = store.remove("a.com")
    assert (removal.removed, removal.left) == (None, str(docker))
    store.store("a.com", login())
    removal = store.remove("a.com")
    assert (removal.removed, removal.left) == (str(tmp_path / "run/containers/auth.json"), str(docker))
    assert CredentialStore(environ, str(tmp_path / "absent")).remove("a.com").removed is None


@pytest.mark.parametrize(
    ("key", "registry", "is_found"),
    [
        ("https://index.docker.io/v1/", "docker.io", True),
        ("http://a.com:5000/v2/", "a.com:5000", True),
        ("a.com", "a.com", True),
        ("https://a.com/v1/", "b.com", False),
    ],
)
def test_the_keys_of_dockercfg_are_urls(
    environ: dict[str, str], tmp_path: Path, key: str, registry: str, is_found: bool
) -> None:
    path = write(tmp_path / "home/.dockercfg", {key: entry("me")})
    found = CredentialStore(environ).find(registry, "team/app")
    assert found == (Credential(user="me", secret=SECRET, origin=str(path)) if is_found else None)


def test_dockercfg_is_never_written(environ: dict[str, str], tmp_path: Path) -> None:
    path = write(tmp_path / "home/.dockercfg", {"a.com": entry("me")})
    before = path.read_bytes()
    store = CredentialStore(environ)
    store.store("a.com", login("other"))
    assert store.remove("a.com").left == str(path)
    removal = store.remove_all()
    assert (removal.removed, removal.left) == ({}, (str(path),))
    assert path.read_bytes() == before


def test_a_logout_from_all_removes_every_password_of_the_file_and_of_its_helpers(
    environ: dict[str, str], tmp_path: Path
) -> None:
    helper(tmp_path)
    settings = {"credHelpers": {"c.com": "test"}, "HttpHeaders": {"X": "y"}}
    path = write(tmp_path / "run/containers/auth.json", settings)
    docker = write(tmp_path / "home/.docker/config.json", {"auths": {"a.com": entry("docker")}})
    write(tmp_path / "home/.config/containers/auth.json", {"auths": {}})
    store = CredentialStore(environ)
    for key in ("a.com", "b.com/team", "c.com"):
        store.store(key, login())
    removal = store.remove_all()
    assert dict(removal.removed) == {
        "a.com": str(path),
        "b.com/team": str(path),
        "c.com": "docker-credential-test",
    }
    assert removal.left == (str(docker),)
    assert json.loads(path.read_text()) == {**settings, "auths": {}}
    assert [user(store, key, "team") for key in ("a.com", "b.com", "c.com")] == ["docker", None, None]


def test_a_logout_from_all_with_a_store_of_credentials_erases_what_docker_lists(
    environ: dict[str, str], tmp_path: Path
) -> None:
    helper(tmp_path)
    path = write(
        tmp_path / "auth.json",
        {"credsStore": "test", "auths": {"https://index.docker.io/v1/": {}, "a.com": {}}},
    )
    store = CredentialStore(environ, str(path))
    for key in ("docker.io", "a.com"):
        store.store(key, login())
    store.remove_all()
    assert [store.find(key) for key in ("docker.io", "a.com")] == [None, None]
    assert json.loads((tmp_path / "bin/kept.json").read_text()) == {}


# --- credential helpers ---

#: A helper that keeps credentials in files of its directory, and records its calls.
HELPER = """#!/usr/bin/env python3
import json, os, sys
place = os.path.join(os.path.dirname(sys.argv[0]), "kept.json")
kept = json.load(open(place)) if os.path.exists(place) else {}
given = sys.stdin.read()
with open(os.path.join(os.path.dirname(sys.argv[0]), "calls"), "a") as calls:
    print(" ".join(sys.argv[1:]), file=calls)
if sys.argv[1] == "get":
    if given not in kept:
        print("credentials not found in native keychain")
        sys.exit(1)
    print(json.dumps({"ServerURL": given, **kept[given]}))
elif sys.argv[1] == "store":
    entry = json.loads(given)
    kept[entry.pop("ServerURL")] = entry
else:
    kept.pop(given, None)
json.dump(kept, open(place, "w"))
"""


def helper(tmp_path: Path, text: str = HELPER, name: str = "test") -> Path:
    path = tmp_path / "bin" / f"docker-credential-{name}"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("setting", [{"credHelpers": {"a.com": "test"}}, {"credsStore": "test"}])
def test_a_helper_stores_returns_and_erases(
    environ: dict[str, str], tmp_path: Path, setting: dict[str, Any]
) -> None:
    helper(tmp_path)
    path = write(tmp_path / "run/containers/auth.json", setting)
    store = CredentialStore(environ)
    assert store.find("a.com") is None
    assert store.store("a.com", login()) == "docker-credential-test"
    assert json.loads(path.read_text()) == setting
    assert store.find("a.com", "x/y") == Credential(user="me", secret=SECRET, origin="docker-credential-test")
    assert store.remove("a.com").removed == "docker-credential-test"
    assert store.find("a.com") is None
    # Other users see the arguments.
    assert set((tmp_path / "bin/calls").read_text().split()) == {"get", "store", "erase"}


def test_docker_hub_is_known_to_helpers_by_its_url(environ: dict[str, str], tmp_path: Path) -> None:
    helper(tmp_path)
    write(tmp_path / "home/.docker/config.json", {"credsStore": "test"})
    write(
        tmp_path / "bin/kept.json",
        {"https://index.docker.io/v1/": {"Username": "<token>", "Secret": "identity"}},
    )
    found = CredentialStore(environ).find("docker.io", "library/debian")
    assert found is not None
    assert (found.is_token, found.secret) == (True, "identity")


def test_a_helper_of_another_host_is_not_called(environ: dict[str, str], tmp_path: Path) -> None:
    write(
        tmp_path / "run/containers/auth.json",
        {"credHelpers": {"b.com": "absent"}, "auths": {"a.com": entry("me")}},
    )
    assert user(CredentialStore(environ), "a.com") == "me"
    with pytest.raises(ImageError, match="docker-credential-absent: not found in PATH"):
        CredentialStore(environ).find("b.com")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo broken; exit 3", "get failed: broken"),
        ("echo nonsense", "its reply is not a credential"),
        ('echo \'{"Username": 5, "Secret": "x"}\'', "its reply is not a credential"),
        ("echo '[]'", "its reply is not a credential"),
        ("sleep 60 & sleep 60", "no reply within 0 seconds"),
        ("head -c 2000000 /dev/zero", "its reply has more than 1048576 bytes"),
    ],
)
def test_a_helper_that_fails_is_one_error(
    environ: dict[str, str], tmp_path: Path, text: str, message: str
) -> None:
    helper(tmp_path, f"#!/bin/sh\n{text}\n")
    write(tmp_path / "run/containers/auth.json", {"credHelpers": {"a.com": "test"}})
    begin = time.monotonic()
    with pytest.raises(ImageError) as failed:
        CredentialStore(environ, helper_timeout=0.4 if "sleep" in text else 30).find("a.com")
    assert message in failed.value.message
    assert time.monotonic() - begin < 10


def test_a_helper_that_cannot_store_does_not_reveal_the_password(
    environ: dict[str, str], tmp_path: Path
) -> None:
    helper(tmp_path, "#!/bin/sh\ncat\ncat >&2\nexit 1\n")
    write(tmp_path / "run/containers/auth.json", {"credHelpers": {"a.com": "test"}})
    with pytest.raises(ImageError) as failed:
        CredentialStore(environ).store("a.com", login())
    assert failed.value.message == "docker-credential-test store failed"
