"""Expand variables in the words of instructions, as the Dockerfile reference defines it ("Environment replacement").

    $NAME  ${NAME}       the value; nothing if the variable is not set
    ${NAME:-WORD}        WORD if the variable is not set or empty; without ":", only if it is not set
    ${NAME:+WORD}        WORD if the variable is set and not empty; without ":", if it is set
    ${NAME:?WORD}        an error with the text WORD if the variable is not set or empty; without ":", if it is not set

WORD may have variables itself. Single quotes and the escape character prevent an expansion. Quotes are removed.
"""

from __future__ import annotations

from sandbox.images.build.source_text import BLANKS
from sandbox.spec.notation import shown

# A plain name instead of typing.TYPE_CHECKING: importing typing costs milliseconds of each start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_VALUE = 1 << 17
"""Characters of one expanded word. execve(2) takes no longer string (MAX_ARG_STRLEN)."""

MAX_TOTAL = 1 << 24
"""Characters of all expanded words of a build. `ENV A=$A$A`, repeated, would otherwise need any amount of memory."""

MAX_DEPTH = 50
"""How deep ${NAME:-${NAME:-...}} may be nested."""

_SPECIAL = (
    "@*#?-$!"  # the special parameters of POSIX, XCU 2.5.2; they have no value here, and "0" is a digit
)
_REMOVALS = "#%/"
_OPERATORS = ":-+?=^,@" + _REMOVALS  # those of shells; most are not supported


class ExpansionError(Exception):
    """A word that cannot be expanded: the characters from *start* to *end*, exclusive, of its text are wrong."""

    def __init__(self, message: str, hint: str, start: int, end: int) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.start = start
        self.end = end


class Expander:
    """Expands words with the escape character of one file, and counts the characters. Nothing has to be closed."""

    def __init__(self, escape: str) -> None:
        self._escape = escape
        self._left = MAX_TOTAL

    def word(self, text: str, variables: Mapping[str, str]) -> str:
        """Return *text* with variables expanded and without quotes.

        Raises:
            ExpansionError: an expansion is not closed or not supported, or the result is too long.
        """
        return self._counted(_Scanner(text, variables, self._escape).whole(), text)

    def words(self, text: str, variables: Mapping[str, str]) -> list[str]:
        """Return the words of *text* after the expansion: blanks of a value separate words, quoted blanks do not.

        Raises:
            ExpansionError: as `word`.
        """
        scanner = _Scanner(text, variables, self._escape)
        self._counted(scanner.whole(), text)
        return scanner.words()

    def document(self, text: str, variables: Mapping[str, str]) -> str:
        """Return the content of a here-document with variables expanded. Quotes are kept.

        A backslash is removed and the character behind it is taken as it is, as BuildKit does with every escape character.

        Raises:
            ExpansionError: as `word`.
        """
        scanner = _Scanner(text, variables, "\\", quotes=False, limit=MAX_TOTAL)
        return self._counted(scanner.whole(), text)

    def _counted(self, result: str, text: str) -> str:
        self._left -= len(result)
        if self._left < 0:
            message = f"the variables of this file expand to more than {MAX_TOTAL} characters"
            raise ExpansionError(message, "remove variables that contain themselves", 0, len(text))
        return result


class _Scanner:
    """Expands one text. Positions are indexes of it."""

    def __init__(
        self,
        text: str,
        variables: Mapping[str, str],
        escape: str,
        *,
        quotes: bool = True,
        limit: int = MAX_VALUE,
    ) -> None:
        self._text = text
        self._variables = variables
        self._escape = escape
        self._quotes = quotes
        self._limit = limit
        self._at = 0
        self._depth = 0
        self._parts: list[
            tuple[str, bool]
        ] = []  # a part of the result, and whether its blanks separate words

    def whole(self) -> str:
        """Expand the text once and return the result."""
        self._parts = self._until("")
        return "".join(part for part, _ in self._parts)

    def words(self) -> list[str]:
        """Return the words of the result of `whole`."""
        words = [""]
        for part, splits in self._parts:
            if not splits:
                words[-1] += part
                continue
            for char in part:
                if char not in BLANKS:
                    words[-1] += char
                elif words[-1]:
                    words.append("")
        return words if words[-1] else words[:-1]

    def _until(self, stop: str) -> list[tuple[str, bool]]:
        """Return the parts up to the character *stop*, which is skipped, or up to the end of the text."""
        parts: list[tuple[str, bool]] = []
        start, length = self._at, 0
        while self._at < len(self._text):
            char = self._text[self._at]
            if stop and char == stop:
                self._at += 1
                return parts
            if char == "$":
                part = self._variable(), True
            elif char == "'" and self._quotes:
                part = self._single_quoted(), False
            elif char == '"' and self._quotes:
                part = self._double_quoted(), False
            elif char == self._escape:
                part = self._text[self._at + 1 : self._at + 2], False
                self._at += 2
            else:
                part = char, True
                self._at += 1
            length += len(part[0])
            if length > self._limit:
                message = f"the value is longer than {self._limit} characters"
                raise ExpansionError(message, "put long texts into a file and COPY it", start, self._at)
            parts.append(part)
        if stop:
            raise self._not_closed(start)
        return parts

    def _single_quoted(self) -> str:
        start = self._at
        end = self._text.find("'", start + 1)
        if end < 0:
            raise ExpansionError("a single quote is not closed", "close it with '", start, len(self._text))
        self._at = end + 1
        return self._text[start + 1 : end]

    def _double_quoted(self) -> str:
        start = self._at
        self._at += 1
        result: list[str] = []
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == '"':
                self._at += 1
                return "".join(result)
            if char == "$":
                result.append(self._variable())
                continue
            following = self._text[self._at + 1 : self._at + 2]
            if char == self._escape and (following in {'"', "$", self._escape} or not following):
                result.append(following)
                self._at += 2
                continue
            result.append(char)
            self._at += 1
        raise ExpansionError("a double quote is not closed", 'close it with "', start, len(self._text))

    def _variable(self) -> str:
        """Return the value of the expansion that begins with the "$" here."""
        start = self._at
        self._at += 1
        if not self._text.startswith("{", self._at):
            name = self._name()
            return self._variables.get(name, "") if name else "$"
        self._at += 1
        name = self._name()
        operator = self._text[self._at : self._at + 1]
        if not operator:
            raise self._not_closed(start)
        if not name:
            raise ExpansionError("${ without the name of a variable", "write ${NAME}", start, self._at + 1)
        if operator != "}" and operator not in _OPERATORS:
            raise self._not_closed(start)
        self._at += 1
        if operator == "}":
            return self._variables.get(name, "")
        colon = operator == ":"
        if colon:
            operator = self._text[self._at : self._at + 1]
            self._at += 1
        if not operator or operator not in "-+?":
            shown_operator = (":" if colon else "") + operator
            what = f"the operator {shown(shown_operator)}" if operator else "an incomplete operator"
            more = "; change the value in a RUN step instead" if operator and operator in _REMOVALS else ""
            message = f"{what} in ${{{name}...}} is not supported"
            hint = f"write ${{{name}:-VALUE}} or ${{{name}:+VALUE}}{more}"
            raise ExpansionError(message, hint, start, min(self._at, len(self._text)))
        word = self._word_inside(start)
        value = self._variables.get(name)
        is_set = value is not None and not (colon and value == "")
        if operator == "+":
            return word if is_set else ""
        if is_set:
            return value or ""
        if operator == "?":
            message = f"{name}: {word or 'is not set' + (' or empty' if colon else '')}"
            raise ExpansionError(
                message, f"set it with ENV, ARG or --build-arg {name}=VALUE", start, self._at
            )
        return word

    def _word_inside(self, start: int) -> str:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            message = f"variables are nested more than {MAX_DEPTH} levels deep"
            raise ExpansionError(message, "use an ARG for each level", start, len(self._text))
        try:
            parts = self._until("}")
        except ExpansionError as error:
            if error.message == _NOT_CLOSED:
                raise self._not_closed(start) from None  # the outermost expansion that is not closed
            raise
        self._depth -= 1
        return "".join(part for part, _ in parts)

    def _name(self) -> str:
        """Return the name of a variable here: letters, digits and "_", or digits alone, or one special parameter."""
        start = self._at
        if self._text[start : start + 1] and self._text[start] in _SPECIAL:
            self._at += 1
            return self._text[start]
        digits = self._text[start : start + 1].isdigit()
        while self._at < len(self._text):
            char = self._text[self._at]
            if not (char.isdigit() if digits else char.isalnum() or char == "_"):
                break
            self._at += 1
        return self._text[start : self._at]

    def _not_closed(self, start: int) -> ExpansionError:
        return ExpansionError(_NOT_CLOSED, "close it with }", start, len(self._text))


_NOT_CLOSED = "${ is not closed"
