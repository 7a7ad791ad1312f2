"""registries.conf chooses locations as containers-registries.conf(5) says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import ImageError
from sandbox.images.registry.reference import parse_reference
from sandbox.images.registry.registries_conf import RegistriesConf, load, parse

DIGEST = f"sha256:{'0' * 64}"

#: The example of the page.
EXAMPLE = """
unqualified-search-registries = ["example.com"]

[[registry]]
prefix = "example.com/foo"
insecure = false
blocked = false
location = "internal-registry-for-example.com/bar"

[[registry.mirror]]
location = "example-mirror-0.local/mirror-for-foo"

[[registry.mirror]]
location = "example-mirror-1.local/mirrors/foo"
insecure = true

[[registry]]
location = "registry.com"

[[registry.mirror]]
location = "mirror.registry.com"
"""


def conf(text: str) -> RegistriesConf:
    return RegistriesConf(parse(text, "registries.conf"))


def locations(text: str, reference: str) -> list[tuple[str, bool]]:
    found = conf(text).pull_locations(parse_reference(f"docker://{reference}"))
    return [(str(one).removeprefix("docker://"), one.insecure) for one in found]


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (
            "example.com/foo/image:latest",
            [
                ("example-mirror-0.local/mirror-for-foo/image", False),
                ("example-mirror-1.local/mirrors/foo/image", True),
                ("internal-registry-for-example.com/bar/image", False),
            ],
        ),
        ("registry.com/image", [("mirror.registry.com/image", False), ("registry.com/image", False)]),
        ("example.com/foobar/image", [("example.com/foobar/image", False)]),
        ("other.org/a/b", [("other.org/a/b", False)]),
    ],
)
def test_the_example_of_the_page_gives_the_locations_that_the_page_gives(
    reference: str, expected: list[tuple[str, bool]]
) -> None:
    assert locations(EXAMPLE, reference) == expected


def test_a_push_goes_to_the_registry_of_the_reference() -> None:
    reference = parse_reference("docker://example.com/foo/image")
    assert str(conf(EXAMPLE).push_location(reference)) == "docker://example.com/foo/image"


def test_the_longest_prefix_decides() -> None:
    text = """
[[registry]]
location = "a.com"
insecure = true
[[registry]]
location = "a.com/x"
[[registry]]
location = "a.com/x/y"
insecure = true
[[registry]]
prefix = "a.com/x/y/z:old"
blocked = true
"""
    assert locations(text, "a.com/b") == [("a.com/b", True)]
    assert locations(text, "a.com/x/b") == [("a.com/x/b", False)]
    assert locations(text, "a.com/xx/b") == [("a.com/xx/b", True)]
    assert locations(text, "a.com/x/y/z:new") == [("a.com/x/y/z", True)]
    with pytest.raises(ImageError, match=r"registries\.conf blocks images of a\.com/x/y/z:old"):
        locations(text, "a.com/x/y/z:old")
    assert conf(text).is_insecure("a.com")
    assert not conf(text).is_insecure("a.com:5000")


def test_a_prefix_without_port_does_not_match_another_port_of_the_host() -> None:
    text = '[[registry]]\nlocation = "a.com:5000"\ninsecure = true'
    assert locations(text, "a.com:5000/b") == [("a.com:5000/b", True)]
    assert locations(text, "a.com/b") == [("a.com/b", False)]
    assert locations(text, "a.com:50001/b") == [("a.com:50001/b", False)]


def test_a_wildcard_matches_subdomains_alone_and_rewrites_only_with_a_location() -> None:
    text = (
        '[[registry]]\nprefix = "*.example.com"\ninsecure = true\n[[registry.mirror]]\nlocation = "m.local/x"'
    )
    expected = [("m.local/x/foo/image", False), ("a.b.example.com:5000/foo/image", True)]
    assert locations(text, "a.b.example.com:5000/foo/image") == expected
    assert locations(text, "example.com/foo/image") == [("example.com/foo/image", False)]
    assert locations(text, "badexample.com/foo") == [("badexample.com/foo", False)]
    assert locations('[[registry]]\nprefix = "*.example.com"\nlocation = "b.org/c"', "a.example.com/d") == [
        ("b.org/c/d", False)
    ]


@pytest.mark.parametrize(
    ("setting", "by_tag", "by_digest"),
    [("", True, True), ('"all"', True, True), ('"digest-only"', False, True), ('"tag-only"', True, False)],
)
def test_a_mirror_may_be_for_tags_or_digests_only(setting: str, by_tag: bool, by_digest: bool) -> None:
    text = '[[registry]]\nlocation = "a.com"\n[[registry.mirror]]\nlocation = "m.com"\n'
    text += f"pull-from-mirror = {setting}" if setting else ""
    assert (("m.com/b", False) in locations(text, "a.com/b:1")) is by_tag
    assert (("m.com/b", False) in locations(text, f"a.com/b@{DIGEST}")) is by_digest


def test_mirrors_may_all_be_for_digests_only() -> None:
    text = '[[registry]]\nlocation = "a.com"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = "m.com"'
    assert locations(text, "a.com/b:1") == [("a.com/b", False)]
    assert locations(text, f"a.com/b@{DIGEST}") == [("m.com/b", False), ("a.com/b", False)]


def test_a_blocked_registry_is_blocked_for_pushes_too() -> None:
    with pytest.raises(ImageError, match="blocks images of"):
        conf('[[registry]]\nlocation = "a.com"\nblocked = true').push_location(
            parse_reference("docker://a.com/b")
        )


@pytest.mark.parametrize(
    "text",
    [
        "[[registry",
        "[registries.search]\nregistries = ['a.com']",
        "registry = 1",
        "[registry]\nlocation = 'a.com'",
        "[[registry]]",
        "[[registry]]\nlocation = 1",
        "[[registry]]\nlocation = 'http://a.com'",
        "[[registry]]\nlocation = 'a.com'\ninsecure = 'yes'",
        "[[registry]]\nprefix = 'a.*.com'\nlocation = 'b.com'",
        "[[registry]]\nprefix = '*.a.com/x'\nlocation = 'b.com'",
        "[[registry]]\nlocation = 'a.com'\nmirror = 5",
        "[[registry]]\nlocation = 'a.com'\n[[registry.mirror]]\ninsecure = true",
        "[[registry]]\nlocation = 'a.com'\n[[registry.mirror]]\nlocation = 'b.com'\npull-from-mirror = 'some'",
        "[[registry]]\nlocation='a.com'\nmirror-by-digest-only=true\nmirror=[{location='b.com',pull-from-mirror='all'}]",
        f"x = {'[' * 100_000}",
    ],
)
def test_a_malformed_file_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(ImageError, match=r"^registries\.conf: "):
        conf(text)


name = st.from_regex(r"[a-z]{1,3}(\.[a-z]{1,3}){1,2}(:[0-9]{1,4})?(/[a-z]{1,3}){0,3}", fullmatch=True)


@given(prefix=name, location=name, reference=name.filter(lambda text: "/" in text))
def test_only_what_the_prefix_matches_is_rewritten(prefix: str, location: str, reference: str) -> None:
    text = f'[[registry]]\nprefix = "{prefix}"\nlocation = "{location}"'
    if reference == prefix and "/" not in location:
        with pytest.raises(ImageError, match="is no repository"):
            locations(text, reference)
        return
    [(found, _)] = locations(text, reference)
    if reference == prefix or reference.startswith(f"{prefix}/"):
        assert found == f"{location}{reference[len(prefix) :]}"
    else:
        assert found == reference


# --- the files ---


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sandbox.images.registry.registries_conf._SYSTEM", str(tmp_path / "etc"))
    (tmp_path / "etc/registries.conf.d").mkdir(parents=True)
    (tmp_path / "home/.config/containers/registries.conf.d").mkdir(parents=True)
    return tmp_path


def insecure(home: Path, **environ: str) -> list[str]:
    found = load({"HOME": str(home / "home"), **environ})
    return [one for one in ("a.com", "b.com", "c.com", "d.com", "e.com") if found.is_insecure(one)]


def write(path: Path, location: str, flag: str = "true") -> None:
    path.write_text(f'[[registry]]\nlocation = "{location}"\ninsecure = {flag}\n')


def test_the_users_file_replaces_that_of_the_machine_and_drop_ins_follow(home: Path) -> None:
    assert insecure(home) == []
    write(home / "etc/registries.conf", "a.com")
    assert insecure(home) == ["a.com"]
    write(home / "home/.config/containers/registries.conf", "b.com")
    assert insecure(home) == ["b.com"]
    write(home / "etc/registries.conf.d/1.conf", "c.com")
    write(home / "etc/registries.conf.d/ignored", "a.com")
    write(home / "home/.config/containers/registries.conf.d/1.conf", "d.com")
    assert insecure(home) == ["b.com", "c.com", "d.com"]
    write(home / "e.conf", "e.com")
    assert insecure(home, CONTAINERS_REGISTRIES_CONF=str(home / "e.conf")) == ["c.com", "d.com", "e.com"]
    write(home / "home/.config/containers/registries.conf.d/2.conf", "c.com", "false")
    assert insecure(home) == ["b.com", "d.com"]


def test_a_file_that_the_variable_names_must_exist(home: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        load({"CONTAINERS_REGISTRIES_CONF": str(home / "absent.conf")})


@pytest.mark.parametrize("data", [b"\xff\xfe", bytes((1 << 20) + 1)])
def test_a_file_that_is_no_text_or_too_large_is_refused(home: Path, data: bytes) -> None:
    (home / "etc/registries.conf").write_bytes(data)
    with pytest.raises(ImageError, match=r"registries\.conf: is "):
        load({})
