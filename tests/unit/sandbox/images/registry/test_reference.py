"""References to images in registries follow the grammar of the distribution reference, and have a host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.registry.reference import (
    Reference,
    Repository,
    api_host,
    is_digest,
    is_tag,
    parse_reference,
    parse_registry,
)

DIGEST = f"sha256:{'0123456789abcdef' * 4}"

label = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,5}[a-zA-Z0-9])?", fullmatch=True)
port = st.integers(1, 65535).map(lambda number: f":{number}")
# docker.io is not generated: its names are completed.
host = st.one_of(
    st.just("localhost"),
    st.lists(label, min_size=2, max_size=3).map(".".join),
    st.tuples(label, port).map("".join),
    st.tuples(st.just("[::1]"), port).map("".join),
).filter(lambda name: "docker.io" not in name)
component = st.from_regex(r"[a-z0-9]{1,4}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)
path = st.lists(component, min_size=1, max_size=4).map("/".join)
tag = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)
digest = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)


@given(host=host, path=path, tag=st.none() | tag, digest=st.none() | digest)
def test_every_reference_of_the_grammar_is_parsed_and_printed_again(
    host: str, path: str, tag: str | None, digest: str | None
) -> None:
    text = f"docker://{host}/{path}{f':{tag}' if tag else ''}{f'@{digest}' if digest else ''}"
    found = parse_reference(text)
    assert found.repository == Repository(host, path)
    assert (found.tag, found.digest) == (tag or (None if digest else "latest"), digest)
    assert found.target == (digest or tag or "latest")
    assert parse_reference(str(found)) == found


@given(st.text(max_size=40).map(lambda text: f"docker://{text}") | st.text(max_size=40))
def test_any_other_text_is_refused_and_what_is_accepted_is_safe_in_a_url(text: str) -> None:
    try:
        found = parse_reference(text)
    except ImageError:
        return
    assert str(found).isascii()
    assert not set(str(found)) & set(" ?#%\\\"'<>|^`{}\n\r\0")
    assert ".." not in found.repository.path.split("/")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("docker://debian", "docker://docker.io/library/debian"),
        ("docker://debian:12", "docker://docker.io/library/debian:12"),
        ("docker://library/debian", "docker://docker.io/library/debian"),
        ("docker://team/app:1.0", "docker://docker.io/team/app:1.0"),
        (f"docker://debian@{DIGEST}", f"docker://docker.io/library/debian@{DIGEST}"),
    ],
)
def test_a_short_name_is_refused_and_the_error_names_what_was_meant(text: str, meant: str) -> None:
    with pytest.raises(ImageError) as refused:
        parse_reference(text)
    assert text in refused.value.message
    assert f"write {meant}, or" in (refused.value.hint or "")
    assert str(parse_reference(meant)).startswith(meant)


def test_docker_hub_has_one_name_and_the_namespace_library() -> None:
    expected = Reference(Repository("docker.io", "library/debian"), "12", None)
    for registry in ("docker.io", "index.docker.io", "registry-1.docker.io"):
        for name in ("debian", "library/debian"):
            assert parse_reference(f"docker://{registry}/{name}:12") == expected
    assert api_host("docker.io") == "registry-1.docker.io"
    assert api_host("quay.io") == "quay.io"


@pytest.mark.parametrize(
    "text",
    [
        "quay.io/a/b",  # no scheme
        "docker://",
        "docker:///a",
        "docker://quay.io",
        "docker://quay.io/",
        "docker://localhost:5000",
        "docker://quay.io/A",
        "docker://quay.io/a//b",
        "docker://quay.io/../b",
        "docker://quay.io/a/",
        "docker://quay.io/a:",
        "docker://quay.io/a:-x",
        f"docker://quay.io/a:{'x' * 129}",
        "docker://quay.io/a@",
        "docker://quay.io/a@sha256:12",
        f"docker://quay.io/a@{DIGEST.upper()}",
        f"docker://quay.io/a@{DIGEST}/../x",
        f"docker://quay.io/a@sha512:{'0' * 128}",
        "docker://user:pass@quay.io/a",
        "docker://quay.io:port/a",
        "docker://-quay.io/a",
        "docker://quay.io/a?x=y",
        "docker://quay.io/a b",
        f"docker://quay.io/{'a' * 256}",
    ],
)
def test_a_malformed_reference_is_refused(text: str) -> None:
    with pytest.raises(ImageError):
        parse_reference(text)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("quay.io", "quay.io"),
        ("docker://localhost:5000", "localhost:5000"),
        ("quay.io/team", "quay.io/team"),
        ("registry-1.docker.io", "docker.io"),
    ],
)
def test_a_login_names_a_host_or_a_namespace(text: str, key: str) -> None:
    assert parse_registry(text) == key


@pytest.mark.parametrize("text", ["", "https://quay.io", "quay.io/", "quay.io/A", "me@quay.io", "a b"])
def test_a_login_names_nothing_else(text: str) -> None:
    with pytest.raises(ImageError, match="is not the name of a registry"):
        parse_registry(text)


def test_digests_and_tags_have_no_slashes_and_no_line_ends() -> None:
    assert is_digest(DIGEST)
    assert is_tag("v1.0-rc_1")
    for text in (f"{DIGEST}\n", f"{DIGEST}0", "sha256:../../etc/passwd", ""):
        assert not is_digest(text)
    for text in ("a/b", "a\n", "", ".a", "a:b"):
        assert not is_tag(text)
