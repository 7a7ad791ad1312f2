"""Turn the instructions of one stage into steps: variables are expanded, and the configuration of the image follows.

The rules are those of the Dockerfile reference: "Environment replacement", "ARG", and the section of each instruction.
"""

from __future__ import annotations

from collections import ChainMap

from sandbox.images.build import copy_paths, instructions
from sandbox.images.build.config import MAX_ENTRIES, MAX_PORTS, Health, ImageConfig
from sandbox.images.build.copy_paths import PathError
from sandbox.images.build.here_documents import Heredoc, opening_of
from sandbox.images.build.instruction_parsers import MistakeError, is_remote, remote_source
from sandbox.images.build.instructions import Command, Instruction, Word
from sandbox.images.build.plan import SCRIPT_PATH, CopyFiles, Document, MakeDirectory, RunCommand, Step
from sandbox.images.build.ports import parse_ports
from sandbox.images.build.variables import Expander, ExpansionError
from sandbox.spec.locate import Span
from sandbox.spec.names import parse_signal
from sandbox.spec.notation import shown
from unionfs._stdlib.dataclasses import replace
from unionfs._stdlib.typing import Any

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.images.build.plan import Action, Origin
    from sandbox.spec.origin import Source


class StageState:
    """The state of one stage while its instructions are evaluated: its configuration and the arguments that it declared.

    `stages` creates it; there is nothing to close.
    """

    def __init__(
        self,
        config: ImageConfig,
        *,
        expander: Expander,
        given: Mapping[str, str],
        global_arguments: Mapping[str, str],
        inherited: Mapping[str, str],
        find_origin: Callable[[Word], Origin],
    ) -> None:
        """Begin with *config* of the base, and with the arguments *inherited* from it if it is a stage.

        *given* are values from the command line. *global_arguments* are those before the first FROM, and those that are always
        there, such as TARGETARCH: an ARG without a default takes them. *find_origin* resolves the name of --from.
        """
        self.config = config
        self.arguments = dict(inherited)
        self._expander = expander
        self._given = given
        self._globals = global_arguments
        self._find_origin = find_origin
        self._has_command = False  # whether this stage has a CMD so far
        self._environment = config.variables()

    def step(self, item: Instruction, source: Source) -> Step | None:
        """Return the step for the instruction *item* of the text *source*; None if it has none, such as ARG.

        Raises:
            MistakeError: the instruction is wrong now that the values of its variables are known.
        """
        action: Action | None
        action = _EVALUATORS[type(item)](self, item)
        for what, entries in (
            ("environment variables", self.config.env),
            ("arguments", self.arguments),
            ("labels", self.config.labels),
            ("volumes", self.config.volumes),
        ):
            if len(entries) > MAX_ENTRIES:
                message = f"more than {MAX_ENTRIES} {what}"
                raise MistakeError(item.span, message, "put long lists into a file and COPY it")
        if isinstance(item, instructions.Arg):
            return None
        return Step(action=action, config=self.config, text=item.text, place=source.place(item.span))

    def expand(self, word: Word) -> str:
        """Return *word* with the variables of this point of the stage."""
        try:
            return self._expander.word(word.text, self._variables)
        except ExpansionError as error:
            raise expansion_mistake(word, error) from None

    @property
    def _variables(self) -> Mapping[str, str]:
        # "Environment variables defined using the ENV instruction always override an ARG instruction of the same name."
        return ChainMap(self._environment, self.arguments)

    def _run(self, item: instructions.Run) -> Action:
        script = None
        command = item.command
        argv = command.argv
        if argv is None:
            text, script = _shell_text(command)
            argv = self.config.shell_command(text) if script is None else (SCRIPT_PATH,)
        return RunCommand(
            command=argv,
            env=self.config.command_env(self.arguments),
            user=self.config.user,
            cwd=self.config.cwd or "/",
            network=item.network,
            script=script,
        )

    def _copy(self, item: instructions.Copy) -> Action:
        origin = None
        if item.origin is not None:
            if "$" in item.origin.text:
                hint = "add FROM $NAME AS STAGE with that variable, and write --from=STAGE"
                raise MistakeError(item.origin.span, "--from cannot have variables", hint)
            origin = self._find_origin(item.origin)
        sources = []
        documents = []
        for given in item.sources:
            if isinstance(given, Heredoc):
                documents.append(Document(given.opening.name, self._document(given)))
                continue
            text = self.expand(given)
            if item.unpack and is_remote(text):
                raise MistakeError(given.span, *remote_source(text))
            sources.append(self._checked(given, copy_paths.copy_source, text))
        text = self.expand(item.target)
        cwd = self.config.cwd
        target = self._checked(item.target, lambda value: copy_paths.copy_target(value, cwd), text)
        if len(item.sources) > 1 and not target.endswith("/"):
            message = f"several sources need a directory as target, and {shown(text)} does not end with /"
            raise MistakeError(item.target.span, message, f"write {text}/")
        return CopyFiles(
            sources=tuple(sources),
            target=target,
            documents=tuple(documents),
            origin=origin,
            owner=self._flag(item.owner, copy_paths.owner, ""),
            mode=self._flag(item.mode, copy_paths.mode, None),
            unpack=item.unpack,
        )

    def _document(self, heredoc: Heredoc) -> str:
        if not heredoc.opening.expand:
            return heredoc.text
        try:
            return self._expander.document(heredoc.text, self._variables)
        except ExpansionError as error:
            span = heredoc.span
            if heredoc.text == heredoc.content:
                span = Span(heredoc.span.start + error.start, heredoc.span.start + error.end)
            hint = f'{error.hint}, or quote the name: <<"{heredoc.opening.name}"'
            raise MistakeError(span, error.message, hint) from None

    def _flag(self, word: Word | None, parse: Callable[[str], Any], default: Any) -> Any:
        return default if word is None else self._checked(word, parse, self.expand(word))

    @staticmethod
    def _checked(word: Word, parse: Callable[[str], Any], text: str) -> Any:
        try:
            return parse(text)
        except PathError as error:
            raise MistakeError(word.span, error.message, error.hint) from None

    def _env(self, item: instructions.Env) -> None:
        # All values of one instruction are expanded with the variables before it.
        pairs = [(self.expand(name), self.expand(value)) for name, value in item.pairs]
        for (name, _), (word, _) in zip(pairs, item.pairs, strict=True):
            if not name or "=" in name:
                hint = "write NAME=VALUE"
                raise MistakeError(word.span, f"{shown(name)} cannot name an environment variable", hint)
        self.config = self.config.with_env(pairs)
        self._environment = self.config.variables()

    def _label(self, item: instructions.Label) -> None:
        pairs = [(self.expand(name), self.expand(value)) for name, value in item.pairs]
        for (name, _), (word, _) in zip(pairs, item.pairs, strict=True):
            if not name:
                raise MistakeError(word.span, "a label has an empty name", "write NAME=VALUE")
        self.config = self.config.with_labels(pairs)

    def _arg(self, item: instructions.Arg) -> None:
        for name, default in item.pairs:
            if name in self._given:
                self.arguments[name] = self._given[name]
            elif default is not None:
                self.arguments[name] = self.expand(default)
            elif name in self._globals:
                self.arguments[name] = self._globals[name]

    def _workdir(self, item: instructions.Workdir) -> Action:
        text = self.expand(item.path)
        if not text:
            raise MistakeError(item.path.span, "the working directory is empty", "write WORKDIR /srv")
        path = copy_paths.absolute(text, self.config.cwd)
        self.config = replace(self.config, cwd=path)
        return MakeDirectory(path, self.config.user)

    def _user(self, item: instructions.User) -> None:
        user = self._checked(item.user, copy_paths.owner, self.expand(item.user))
        self.config = replace(self.config, user=user)

    def _cmd(self, item: instructions.Cmd) -> None:
        self.config = replace(self.config, command=self._argv(item.command) or None)
        self._has_command = True

    def _entrypoint(self, item: instructions.Entrypoint) -> None:
        argv = self._argv(item.command)
        self.config = self.config.with_entrypoint(argv, keep_command=self._has_command)

    def _argv(self, command: Command) -> tuple[str, ...]:
        return self.config.shell_command(command.shell) if command.shell is not None else command.argv or ()

    def _expose(self, item: instructions.Expose) -> None:
        ports: list[str] = []
        for word in item.ports:
            try:
                texts = self._expander.words(word.text, self._variables)
            except ExpansionError as error:
                raise expansion_mistake(word, error) from None
            for text in texts:
                found = parse_ports(text)
                if found is None:
                    hint = "write PORT or FIRST-LAST from 1 to 65535, with /tcp or /udp: `up` maps ports to the host"
                    raise MistakeError(word.span, f"{shown(text)} is not a port", hint)
                ports += found
                if len(ports) > MAX_PORTS or len(self.config.ports) > MAX_PORTS:
                    message = f"more than {MAX_PORTS} ports"
                    raise MistakeError(word.span, message, "expose the ports that clients know")
        self.config = self.config.with_ports(ports)

    def _volume(self, item: instructions.Volume) -> None:
        paths = []
        for word in item.paths:
            path = self.expand(word).strip()
            if not path:
                raise MistakeError(word.span, "the path of a volume is empty", "write VOLUME /data")
            paths.append(path)
        self.config = self.config.with_volumes(paths)

    def _stop_signal(self, item: instructions.StopSignal) -> None:
        text = self.expand(item.signal)
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= 64):
            try:
                parse_signal(text)
            except ValueError as error:
                raise MistakeError(
                    item.signal.span, str(error), "write SIGTERM, SIGINT or a number"
                ) from None
        self.config = replace(self.config, stop_signal=text)

    def _shell(self, item: instructions.Shell) -> None:
        self.config = replace(self.config, shell=item.argv)

    def _onbuild(self, item: instructions.Onbuild) -> None:
        self.config = replace(self.config, triggers=(*self.config.triggers, item.trigger))

    def _healthcheck(self, item: instructions.Healthcheck) -> None:
        if item.command is None:
            test: tuple[str, ...] = ("NONE",)
        elif item.command.argv is not None:
            test = ("CMD", *item.command.argv)
        else:
            test = ("CMD-SHELL", item.command.shell or "")
        self.config = replace(self.config, health=Health(test, item.times))


_EVALUATORS: Mapping[type, Callable[[StageState, Any], Any]] = {
    instructions.Arg: StageState._arg,
    instructions.Cmd: StageState._cmd,
    instructions.Copy: StageState._copy,
    instructions.Entrypoint: StageState._entrypoint,
    instructions.Env: StageState._env,
    instructions.Expose: StageState._expose,
    instructions.Healthcheck: StageState._healthcheck,
    instructions.Label: StageState._label,
    instructions.Onbuild: StageState._onbuild,
    instructions.Run: StageState._run,
    instructions.Shell: StageState._shell,
    instructions.StopSignal: StageState._stop_signal,
    instructions.User: StageState._user,
    instructions.Volume: StageState._volume,
    instructions.Workdir: StageState._workdir,
}


def expansion_mistake(word: Word, error: ExpansionError) -> MistakeError:
    """Return the mistake in *word*, at the characters of *error* if the word is on one line."""
    span = word.span
    if span.end - span.start == len(word.text):
        span = Span(span.start + error.start, span.start + error.end)
    return MistakeError(span, error.message, error.hint)


def _shell_text(command: Command) -> tuple[str, str | None]:
    """Return the text for the shell, and the script that runs in its place or None.

    A command that is one here-document alone is its content. With a "#!" line, that is a program. Any other command gets its
    here-documents from the shell.
    """
    text = command.shell or ""
    if len(command.heredocs) == 1 and opening_of(text):
        content = command.heredocs[0].text
        return ("", content) if content.startswith("#!") else (content, None)
    return text + "".join(f"\n{item.content}{item.opening.name}" for item in command.heredocs), None
