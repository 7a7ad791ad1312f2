"""Apply the metadata of build steps to the configuration of an image: pure functions on values.

The configuration is the object "config" of an image (OCI image-spec, config.md), with the keys of Docker that it names as
reserved: Shell, OnBuild and Healthcheck.
"""

from __future__ import annotations

from sandbox.errors import ImageError
from sandbox.images.build.instructions import HealthTimes
from sandbox.spec.notation import shown
from unionfs._stdlib.dataclasses import dataclass, replace

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEFAULT_PATH = ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
"""The variable that a base image gets if it has none."""

DEFAULT_SHELL = ("/bin/sh", "-c")

MAX_ENTRIES = 1000
"""The most variables, labels, volumes, triggers or words of a command of an image. It bounds time and memory of a build."""

MAX_PORTS = 1 << 14
"""The most ports of an image. A server for telephony exposes 10,000."""

_REPAIR = "build or pull that image again"
_TIMES = (
    ("interval", "Interval"),
    ("timeout", "Timeout"),
    ("start_period", "StartPeriod"),
    ("start_interval", "StartInterval"),
    ("retries", "Retries"),
)
_MAX_TIME = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Health:
    """A health check. `test` is ("CMD", WORD...), ("CMD-SHELL", TEXT), or ("NONE",) to have none."""

    test: tuple[str, ...]
    times: HealthTimes = HealthTimes()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageConfig:
    """What an image says about its program. An empty value, or None, is the default of the runtime.

    `env` has NAME=VALUE strings, one for each name, in the order of the first mention. `labels` are in that order, too.
    `ports` and `volumes` are sorted. `triggers` are the instructions of ONBUILD.
    """

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    user: str = ""
    cwd: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    shell: tuple[str, ...] | None = None
    triggers: tuple[str, ...] = ()
    health: Health | None = None

    def variables(self) -> dict[str, str]:
        """Return the environment variables by name."""
        return dict(_name_and_value(item) for item in self.env)

    def as_base(self) -> ImageConfig:
        """Return the configuration with which a build from this image begins.

        It has a PATH, as BuildKit and buildah give it one. It has no triggers: they are run now, and are not inherited.
        """
        config = self if "PATH" in self.variables() else self.with_env([DEFAULT_PATH])
        return replace(config, triggers=())

    def command_env(self, arguments: Mapping[str, str]) -> tuple[str, ...]:
        """Return the environment of a command of the build: that of the image, and *arguments* that it does not have."""
        known = self.variables()
        more = tuple(f"{name}={value}" for name, value in arguments.items() if name not in known)
        return self.env + more

    def with_env(self, pairs: Iterable[tuple[str, str]]) -> ImageConfig:
        """Return the configuration with the variables *pairs*. A variable that exists keeps its position."""
        changed = self.variables() | dict(pairs)
        return replace(self, env=tuple(f"{name}={value}" for name, value in changed.items()))

    def with_labels(self, pairs: Iterable[tuple[str, str]]) -> ImageConfig:
        """Return the configuration with the labels *pairs*."""
        return replace(self, labels=tuple((dict(self.labels) | dict(pairs)).items()))

    def with_ports(self, ports: Iterable[str]) -> ImageConfig:
        """Return the configuration with *ports* added, such as "80/tcp"."""
        changed = {*self.ports, *ports}
        return self if len(changed) == len(self.ports) else replace(self, ports=tuple(sorted(changed)))

    def with_volumes(self, paths: Iterable[str]) -> ImageConfig:
        """Return the configuration with the mount points *paths* added."""
        return replace(self, volumes=tuple(sorted({*self.volumes, *paths})))

    def with_entrypoint(self, argv: tuple[str, ...], *, keep_command: bool) -> ImageConfig:
        """Return the configuration with an entrypoint.

        A command that the base image has was made for another program. It is dropped unless *keep_command*, which is for one
        that the same stage has set (Dockerfile reference, "Understand how CMD and ENTRYPOINT interact").
        """
        return replace(self, entrypoint=argv or None, command=self.command if keep_command else None)

    def shell_command(self, text: str) -> tuple[str, ...]:
        """Return the command that runs *text*, in the shell form, with the shell of the image."""
        return (*(self.shell or DEFAULT_SHELL), text)


SCRATCH = ImageConfig().as_base()
"""The configuration of an image without a base."""


def read_config(config: Mapping[str, object], image: str) -> ImageConfig:
    """Return the configuration of *image*, whose name is for messages, from its JSON object *config*.

    Raises:
        ImageError: a value does not have the type that the specification gives it.
    """
    reader = _Reader(config, image)
    env = dict(_name_and_value(item) for item in reader.strings("Env") or ())
    return ImageConfig(
        env=tuple(f"{name}={value}" for name, value in env.items()),
        entrypoint=reader.strings("Entrypoint"),
        command=reader.strings("Cmd"),
        user=reader.text("User"),
        cwd=reader.text("WorkingDir"),
        labels=reader.labels(),
        ports=reader.keys("ExposedPorts"),
        volumes=reader.keys("Volumes"),
        stop_signal=reader.text("StopSignal"),
        shell=reader.strings("Shell"),
        triggers=reader.strings("OnBuild") or (),
        health=reader.health(),
    )


def write_config(config: ImageConfig, base: Mapping[str, object]) -> dict[str, object]:
    """Return the JSON object of *config*. Keys of the base image's object *base* that this version does not know are kept."""
    health: dict[str, object] = {}
    if config.health is not None:
        times = config.health.times
        found = {key: getattr(times, name) for name, key in _TIMES}
        health = {"Test": list(config.health.test)} | {key: value for key, value in found.items() if value}
    known: dict[str, object] = {
        "User": config.user,
        "ExposedPorts": {port: {} for port in config.ports},
        "Env": list(config.env),
        "Entrypoint": list(config.entrypoint or ()),
        "Cmd": list(config.command or ()),
        "Volumes": {path: {} for path in config.volumes},
        "WorkingDir": config.cwd,
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
        "Shell": list(config.shell or ()),
        "OnBuild": list(config.triggers),
        "Healthcheck": health,
    }
    # ArgsEscaped is about the form of Cmd and Entrypoint on Windows, which are other ones now.
    kept = {key: value for key, value in base.items() if key not in known and key != "ArgsEscaped"}
    return kept | {key: value for key, value in known.items() if value}


class _Reader:
    """Reads keys of one JSON object, which came from others. A missing key and null are the same, as for Go."""

    def __init__(self, config: Mapping[str, object], image: str) -> None:
        self._config = config
        self._image = image

    def text(self, key: str) -> str:
        value = self._config.get(key)
        return "" if value is None else self._text(value, key)

    def strings(self, key: str) -> tuple[str, ...] | None:
        value = self._config.get(key)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self._wrong(key)
        self._check_length(key, len(value), MAX_ENTRIES)
        # An empty array and none are the same: neither has a program.
        return tuple(self._text(item, key) for item in value) or None

    def keys(self, key: str) -> tuple[str, ...]:
        found = self._object(self._config.get(key), key)
        self._check_length(key, len(found), MAX_PORTS if key == "ExposedPorts" else MAX_ENTRIES)
        return tuple(sorted(self._text(item, key) for item in found))

    def labels(self) -> tuple[tuple[str, str], ...]:
        found = self._object(self._config.get("Labels"), "Labels")
        self._check_length("Labels", len(found), MAX_ENTRIES)
        return tuple((self._text(key, "Labels"), self._text(value, "Labels")) for key, value in found.items())

    def health(self) -> Health | None:
        found = self._object(self._config.get("Healthcheck"), "Healthcheck")
        test = _Reader(found, self._image).strings("Test")
        if not found or test is None:
            return None
        numbers = {}
        for name, key in _TIMES:
            number = found.get(key) or 0
            if not isinstance(number, int) or not 0 <= number <= _MAX_TIME:
                raise self._wrong(f"Healthcheck.{key}")
            numbers[name] = int(number)
        return Health(test, HealthTimes(**numbers))

    def _check_length(self, key: str, length: int, most: int) -> None:
        if length > most:
            message = f"{self._image}: its configuration has more than {most} entries in {key}"
            raise ImageError(message, hint=_REPAIR)

    def _object(self, value: object, key: str) -> dict[str, object]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._wrong(key)
        return value

    def _text(self, value: object, key: str) -> str:
        if not isinstance(value, str) or "\0" in value:
            raise self._wrong(key)
        return value

    def _wrong(self, key: str) -> ImageError:
        value = shown(repr(self._config.get(key))[:200])
        return ImageError(f"{self._image}: malformed configuration: {key} is {value}", hint=_REPAIR)


def _name_and_value(item: str) -> tuple[str, str]:
    name, _, value = item.partition("=")
    return name, value
