"""The language of expectations: a sentence a line, comments behind `#`.

    TARGETS is RIGHTS [for PRIVILEGE]            TARGETS is unmapped | is mapped
    TARGETS never ABILITY [by PRIVILEGE]         TARGETS surrounded by unmapped
    no wx [in TARGETS]                           no user [in TARGETS]
    guard TARGETS unmapped                       all of TARGETS mapped
    only TARGETS ABILITY [for PRIVILEGE]         at most N mappings [in TARGETS]
    frames [of TARGETS] never ABILITY [by PRIVILEGE]
    tables never ABILITY [by PRIVILEGE]
    no reserved bits [in TARGETS]            no tables | mappings outside RAM [in TARGETS]
    [TARGETS] unchanged since POINT

TARGETS are addresses or names, with commas between them.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from crosswalk.walker.errors import BadInput
from crosswalk.walker.expectations.sentences import (
    Ability,
    AtMost,
    Claim,
    Flaw,
    FramesNever,
    Is,
    Mapped,
    Never,
    NoEntries,
    Only,
    Privilege,
    Sentence,
    Surrounded,
    TablesNever,
    Target,
    Targets,
    Unchanged,
    Unmapped,
)
from crosswalk.walker.formats.located_errors import one_line, printable
from crosswalk.walker.leaves import TOP

__all__ = ["parse_expectations", "quoted"]

_TOKEN = re.compile(r'(?P<space>\s+)|(?P<comment>#.*)|"(?P<quoted>[^"]*)"|(?P<comma>,)|[^\s,"]+')
# Those that editors count, and not all that str.splitlines() takes for one.
_LINE_END = re.compile(r"\r\n?|\n")
_NUMBER = "0[xX][0-9a-fA-F_]+|[0-9][0-9_]*"
_RANGE = re.compile(rf"(?P<start>{_NUMBER})(?:(?P<sign>[-+])(?P<end>{_NUMBER})|-)?")
_LOOKS_LIKE_RANGE = re.compile(r"[0-9]")
_RIGHTS = re.compile(r"[r-][w-][x-]")
_ABILITIES = tuple(Ability)
_KEYWORDS = ("no", "guard", "all", "only", "at", "frames", "tables", "unchanged")
_FLAWS = {
    "reserved": (Flaw.RESERVED, ("bits",)),
    "tables": (Flaw.TABLE_OUTSIDE, ("outside", "RAM")),
    "mappings": (Flaw.PAGE_OUTSIDE, ("outside", "RAM")),
}
"""What follows `no`, and the words behind it."""
_PLAIN = re.compile(r'[^\s,"#0-9-][^\s,"]*')


class _Token(NamedTuple):
    text: str
    column: int
    quoted: bool = False

    @property
    def comma(self) -> bool:
        return self.text == "," and not self.quoted


def quoted(name: str) -> str:
    """Return a name as a sentence takes it: in quotes where it has to be."""
    return name if _PLAIN.fullmatch(name) and name not in _KEYWORDS else f'"{name}"'


def parse_expectations(text: str, place: str, *, lines: bool = True) -> tuple[Sentence, ...]:
    """Return the sentences of a text, in order; `place` names where it is from.

    `BadInput` with line and column for what is no sentence, and where there is none at all. Without
    `lines` the text is an argument, and only columns are named.
    """
    found = []
    for number, line in enumerate(_LINE_END.split(text), 1):
        where = f"{one_line(place)}:{number}" if lines else one_line(place)
        tokens = _tokens(line, where)
        if tokens:
            claim = _Line(tokens, where, len(line.rstrip()) + 1).claim()
            written = line[: _end(line)].strip()
            found.append(Sentence(printable(written), claim, place, number if lines else 0))
    if not found:
        raise BadInput(f"{one_line(place)}: no sentence in it")
    return tuple(found)


def _tokens(line: str, where: str) -> list[_Token]:
    found, at = [], 0
    while at < len(line):
        match = _TOKEN.match(line, at)
        if match is None:
            raise BadInput(f'{where}:{at + 1}: no closing " on this line')
        if match["comment"] is not None:
            break
        if match["quoted"] is not None:
            found.append(_Token(match["quoted"], at + 1, quoted=True))
        elif match["space"] is None:
            found.append(_Token(match[0], at + 1))
        at = match.end()
    return found


def _end(line: str) -> int:
    """Return where the comment of a line begins; its length where there is none."""
    return next(
        (each.start() for each in _TOKEN.finditer(line) if each["comment"] is not None), len(line)
    )


class _Line:
    """The tokens of a line, read from the left."""

    def __init__(self, tokens: Sequence[_Token], where: str, end: int) -> None:
        self._tokens, self._where, self._end, self._at = tokens, where, end, 0

    def claim(self) -> Claim:
        """Return what the whole line states."""
        starts: dict[str, Callable[[], Claim]] = {
            "no": self._no,
            "guard": self._guard,
            "all": self._all,
            "only": self._only,
            "at": self._at_most,
            "frames": self._frames,
            "tables": self._tables,
            "unchanged": lambda: self._since(None),
        }
        first = self._tokens[0]
        if not first.quoted and first.text in starts:
            self._at += 1
            found = starts[first.text]()
        else:
            found = self._of_targets()
        if not self._ended:
            self._fail("the end of the sentence")
        return found

    def _of_targets(self) -> Claim:
        targets = self._targets()
        verb = self._word("is", "never", "surrounded", "unchanged")
        if verb == "never":
            return Never(targets, self._ability(), self._privilege(), mapped=True)
        if verb == "surrounded":
            self._word("by")
            self._word("unmapped")
            return Surrounded(targets)
        if verb == "unchanged":
            return self._since(targets)
        what = "rights as r-x, unmapped or mapped"
        text = self._peek(what).text
        if text not in {"unmapped", "mapped"} and not _RIGHTS.fullmatch(text):
            self._fail(what)
        self._at += 1
        if text == "unmapped":
            return Unmapped(targets)
        if text == "mapped":
            return Mapped(targets)
        rights = sum(1 << at for at, letter in enumerate(text) if letter != "-")
        return Is(targets, rights, self._privilege() or Privilege.SUPERVISOR)

    def _no(self) -> Claim:
        what = self._word("wx", "user", *_FLAWS)
        if what in _FLAWS:
            flaw, words = _FLAWS[what]
            for word in words:
                self._word(word)
            return NoEntries(self._in_targets(), flaw)
        targets = self._in_targets()
        if what == "user":
            return Never(targets, Ability.ACCESSIBLE, Privilege.USER, mapped=False)
        return Never(targets, Ability.WX, None, mapped=False)

    def _guard(self) -> Claim:
        targets = self._targets()
        self._word("unmapped")
        return Unmapped(targets)

    def _all(self) -> Claim:
        self._word("of")
        targets = self._targets()
        self._word("mapped")
        return Mapped(targets)

    def _only(self) -> Claim:
        return Only(self._targets(), self._ability(), self._privilege())

    def _at_most(self) -> Claim:
        self._word("most")
        count = _number(self._peek("a number").text)
        if count is None:
            self._fail("a number")
        self._at += 1
        self._word("mappings", "mapping")
        return AtMost(count, self._in_targets())

    def _frames(self) -> Claim:
        targets = None
        if self._word("of", "never") == "of":
            targets = self._targets()
            self._word("never")
        return FramesNever(targets, self._ability(), self._privilege())

    def _tables(self) -> Claim:
        self._word("never")
        return TablesNever(self._ability(), self._privilege())

    def _since(self, targets: Targets | None) -> Claim:
        self._word("since")
        self._peek("a point of the boot")
        words = [each.text for each in self._tokens[self._at :]]
        self._at = len(self._tokens)
        return Unchanged(targets, " ".join(words))

    def _in_targets(self) -> Targets | None:
        if self._ended:
            return None
        self._word("in")
        return self._targets()

    def _targets(self) -> Targets:
        found = [self._target()]
        while not self._ended and self._tokens[self._at].comma:
            self._at += 1
            found.append(self._target())
        return tuple(found)

    def _target(self) -> Target:
        what = "addresses (0x1000-0x2000) or a name"
        token = self._peek(what)
        if token.comma or not token.text.strip():
            self._fail(what)
        found = Target(token.text)
        if not token.quoted and _LOOKS_LIKE_RANGE.match(token.text):
            found = self._range(token.text)
        self._at += 1
        return found

    def _range(self, text: str) -> Target:
        match = _RANGE.fullmatch(text)
        if match is None:
            self._fail('addresses as 0x1000-0x2000, 0x1000+0x1000 or 0x1000- (or a name in "")')
        first, last = _number(match["start"]), _number(match["end"] or "0")
        if first is None or last is None or first >= TOP or last > TOP:
            self._fail("addresses of up to 64 bits")
        if match["sign"] is None:
            end = TOP if text.endswith("-") else first + 1
        else:
            end = last + first if match["sign"] == "+" else last
        if not first < end <= TOP:
            self._fail("addresses that end behind their begin, and within 64 bits")
        return Target(text, first, end)

    def _ability(self) -> Ability:
        return Ability(self._word(*_ABILITIES))

    def _privilege(self) -> Privilege | None:
        if self._ended:
            return None
        self._word("for", "by")
        return Privilege(self._word(*Privilege))

    @property
    def _ended(self) -> bool:
        return self._at == len(self._tokens)

    def _peek(self, what: str) -> _Token:
        if self._ended:
            self._fail(what)
        return self._tokens[self._at]

    def _word(self, *words: str) -> str:
        """Return the next token, which has to be one of these words."""
        what = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
        token = self._peek(what)
        if token.quoted or token.text not in words:
            self._fail(what)
        self._at += 1
        return token.text

    def _fail(self, what: str) -> NoReturn:
        if self._ended:
            raise BadInput(f"{self._where}:{self._end}: expected {what}")
        token = self._tokens[self._at]
        found = one_line(f'"{token.text}"' if token.quoted else token.text)
        raise BadInput(f"{self._where}:{token.column}: expected {what}, found {found}")


def _number(text: str) -> int | None:
    """Return the number that a text is, without a sign; None where it is none."""
    try:
        return int(text, 0) if re.fullmatch(_NUMBER, text) else None
    except ValueError:
        return None
