"""`sandbox login` and `sandbox logout`: where the password comes from, where it goes, and where it never is."""

from __future__ import annotations

import base64
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.cli.main import main
from tests.conftest import PROJECT
from tests.unit.sandbox.cli.support import run
from tests.unit.sandbox.images.registry.faulty_server import FaultyServer, Reply, Request

PASSWORD = "s3cr3t-pass:word"
BASIC = f"Basic {base64.b64encode(f'me:{PASSWORD}'.encode()).decode()}"


def registry(request: Request) -> Reply:
    if request.headers.get("authorization") == BASIC:
        return Reply()
    return Reply(401, {"WWW-Authenticate": 'Basic realm="x"'})


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer(registry) as running:
        yield running


@pytest.fixture
def authfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of the user's logins, in a home of the test."""
    for name in ("REGISTRY_AUTH_FILE", "CONTAINERS_REGISTRIES_CONF", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "run/containers/auth.json"


def give(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def login(*words: str) -> list[str]:
    return ["login", "--tls-verify=false", *words]


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_password_on_standard_input_is_verified_and_stored(
    server: FaultyServer,
    authfile: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: str,
) -> None:
    give(monkeypatch, PASSWORD + end)
    status, out, err = run(capsys, *login("--username", "me", "--password-stdin", server.host))
    assert (status, out) == (0, "")
    assert err == f"logged in to {server.host} as me; the password is in {authfile}\n"
    assert json.loads(authfile.read_text()) == {
        "auths": {server.host: {"auth": BASIC.removeprefix("Basic ")}}
    }
    assert stat.S_IMODE(authfile.stat().st_mode) == 0o600
    status, _, err = run(capsys, "logout", server.host)
    assert (status, err) == (0, f"removed the password for {server.host} from {authfile}\n")
    assert json.loads(authfile.read_text()) == {"auths": {}}


def test_a_namespace_has_a_key_of_its_own(
    server: FaultyServer, authfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, PASSWORD)
    assert main(login("--username", "me", "--password-stdin", f"{server.host}/team")) == 0
    assert list(json.loads(authfile.read_text())["auths"]) == [f"{server.host}/team"]


def test_a_wrong_password_is_not_stored(
    server: FaultyServer,
    authfile: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    give(monkeypatch, "wrong-one")
    status, _, err = run(capsys, *login("--username", "me", "--password-stdin", server.host))
    assert status == 125
    assert f"{server.host}: the registry refuses this user and password" in err
    assert "wrong-one" not in err
    assert not authfile.exists()


def test_a_file_of_ones_own_is_used_for_both(
    server: FaultyServer, authfile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.json"
    give(monkeypatch, PASSWORD)
    assert main(login("--username", "me", "--password-stdin", "--authfile", str(own), server.host)) == 0
    assert not authfile.exists()
    assert main(["logout", "--authfile", str(own), server.host]) == 0
    assert json.loads(own.read_text()) == {"auths": {}}


def test_the_password_is_asked_for_on_a_terminal_only(
    server: FaultyServer,
    authfile: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    give(monkeypatch, "me\n")
    status, _, err = run(capsys, *login(server.host))
    assert (status, "add --username and --password-stdin" in err) == (125, True)
    status, _, err = run(capsys, *login("--password-stdin", server.host))
    assert (status, "add --username NAME" in err) == (125, True)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("me\n"))
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setattr("getpass.getpass", lambda _: PASSWORD)
    assert main(login(server.host)) == 0
    assert server.host in json.loads(authfile.read_text())["auths"]


@pytest.mark.parametrize(
    ("name", "user", "password", "message"),
    [
        ("https://quay.io", "me", "x", "is not the name of a registry"),
        ("127.0.0.1:9", "a:b", "x", "is not the name of a user"),
        ("127.0.0.1:9", "", "x", "is not the name of a user"),
        ("127.0.0.1:9", "me", "", "the password is empty"),
        ("127.0.0.1:9", "me", "a\nb", "has several lines"),
        ("127.0.0.1:9", "me", "x" * 100_000, "too long"),
        ("127.0.0.1:9", "me", "x", "no connection: connection refused"),
    ],
)
def test_a_mistake_is_one_error(
    authfile: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    user: str,
    password: str,
    message: str,
) -> None:
    give(monkeypatch, password)
    status, _, err = run(capsys, *login("--username", user, "--password-stdin", name))
    assert status == 125
    assert message in err
    assert not authfile.exists()


def test_plain_http_needs_the_option_or_registries_conf(
    server: FaultyServer,
    authfile: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["login", "--username", "me", "--password-stdin", server.host]
    give(monkeypatch, PASSWORD)
    status, _, err = run(capsys, *words)
    assert (status, "does not respond with TLS" in err) == (125, True)
    assert server.requests == []
    conf = tmp_path / "registries.conf"
    conf.write_text(f'[[registry]]\nlocation = "{server.host}"\ninsecure = true\n')
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    give(monkeypatch, PASSWORD)
    assert main(words) == 0


def test_a_logout_without_a_login_is_an_error(
    authfile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, "logout", "quay.io")
    assert (status, "no password for quay.io is stored" in err) == (125, True)
    docker = tmp_path / "home/.docker/config.json"
    docker.parent.mkdir(parents=True)
    docker.write_text('{"auths": {"quay.io": {"auth": "bWU6cHc="}}}')
    status, _, err = run(capsys, "logout", "quay.io")
    assert (status, f"{docker} has one: log out with the program" in err) == (125, True)


def test_a_logout_from_all_names_what_it_removes(
    authfile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "logout", "--all")[0] == 125
    entry = {"auth": "bWU6cHc="}
    authfile.write_text(json.dumps({"auths": {"quay.io": entry, "a.com/team": entry}}))
    legacy = tmp_path / "home/.dockercfg"
    legacy.parent.mkdir()
    legacy.write_text(json.dumps({"a.com": entry}))
    status, _, err = run(capsys, "logout", "--all")
    assert status == 0
    assert err == (
        f"removed the password for quay.io from {authfile}\n"
        f"removed the password for a.com/team from {authfile}\n"
        f"sandbox: warning: {legacy} still has passwords\n"
    )
    assert json.loads(authfile.read_text()) == {"auths": {}}
    status, _, err = run(capsys, "logout", "--all")
    assert (status, "no password is stored" in err, f"{legacy} has some" in err) == (125, True, True)


@pytest.mark.parametrize("words", [[], ["--all", "quay.io"]])
def test_a_logout_names_one_registry_or_all(
    authfile: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    status, _, err = run(capsys, "logout", *words)
    assert (status, "name the registry, or give --all" in err) == (125, True)


def test_no_option_takes_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--password", "-p"):
        with pytest.raises(SystemExit) as ended:
            main(["login", option, PASSWORD, "quay.io"])
        assert ended.value.code == 125
    capsys.readouterr()


def test_a_password_is_neither_in_the_process_list_nor_in_the_output(
    server: FaultyServer, authfile: Path
) -> None:
    """While the registry keeps the command waiting, /proc has its arguments and its environment."""
    seen: list[bytes] = []

    def slow(request: Request) -> Reply:
        seen.extend(Path(f"/proc/{process.pid}/{kind}").read_bytes() for kind in ("cmdline", "environ"))
        return registry(request)

    server.handle = slow
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "sandbox", "login", "--debug", "--tls-verify=false", "--username", "me"),
            *("--password-stdin", server.host),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": PROJECT},
    ) as process:
        output, _ = process.communicate(PASSWORD.encode(), timeout=60)
    assert process.returncode == 0, output
    assert b"logged in" in output
    assert len(seen) >= 4
    for secret in (PASSWORD.encode(), BASIC.removeprefix("Basic ").encode()):
        assert not any(secret in text for text in (output, *seen))
