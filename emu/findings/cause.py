"""Causes: what findings of one rule, seen at several levels and page sizes, have in common."""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from crosswalk.emu.findings.form import Form
from crosswalk.emu.findings.signature import DUE, RESERVED, Signature

__all__ = ["Cause", "Part", "cause_of", "is_listed", "joined", "names_of", "parts_of"]

T = TypeVar("T")

_ENTRY = "(?:PTE|PDE|PDPTE|PML4E|PML5E)"
_RIGHT = "((?:effective )?(?:R/W|U/S|XD))"
_LARGE = "(?:2-MiB|4-MiB|1-GiB)"
_SIZE = f"(?:4-KiB|{_LARGE})"
_RULES = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (rf"{RESERVED} in a {_ENTRY}: (.*)", rf"{RESERVED}: \1"),
        ("a PDPTE with reserved bits, loaded", f"{RESERVED}: a PDPTE, loaded"),
        (r"a table outside RAM, \w+", "a table outside RAM"),
        (f"P of a {_ENTRY}", "P of an entry"),
        (rf"{_RIGHT} of (?:a PTE|a {_ENTRY} that maps a page)", r"\1 of the leaf"),
        (
            rf"{_RIGHT} of several levels, the leaf among them",
            r"\1 of the leaf, \1 above the leaf",
        ),
        (rf"{_RIGHT} of (?:a {_ENTRY}|several levels)", r"\1 above the leaf"),
        (f"CR2 of a fault at a {_ENTRY}", "CR2 of a fault"),
        (r"(.*) in the error code of an? \w+", r"\1 in the error code"),
        # Whether PS makes a page is a rule of its own, and so is what lies below bit 21 in it.
        (rf"(a|address of a|size of a) {_LARGE} page(.*)", r"\1 large page\2"),
        ("((?:a|address of a|size of a) 4-KiB page.*)", r"\1"),
        (rf"(.*) of a {_SIZE} page(.*)", r"\1 of a page\2"),
    )
)
"""Patterns of a signature's rule, of which the first that fits counts, and the cause's rule."""

_MARK = re.compile(r"(A|D) of a (leaf|table's entry)")
_PLACES = {"leaf": "of the leaf", "table's entry": "above the leaf"}
_IN_CODE = " in the error code"
_SEVERAL = (
    (re.compile(f"({RESERVED}: )(?!a PDPTE)(.+)()"), ", "),
    (re.compile(f"()(.+)({_IN_CODE})"), " "),
    (re.compile("()(.+)(?: at once)()"), ", "),
    (re.compile("()(.+ (?:of|above) the leaf)((?: by a fault)?)"), ", "),
)
"""Rules of several parts: what is before them, the parts, what is behind; and what is between."""
_HALF = re.compile("(.+) (?:of|above) the leaf(.*)")
_PLACELESS = re.compile("(?:effective )?(?:R/W|U/S|XD)")
_OF_BOTH = " of any entry"
_RULES_AT_ONCE = (
    (re.compile(rf"({RESERVED} in a {_ENTRY}: )(.+)()"), ", "),
    (re.compile(r"()(.+)( in the error code of an? \w+)"), " "),
    (re.compile("()(.+)(?: at once)()"), ", "),
)
"""The same of a signature's rule, which names level and size."""
_OMISSIONS = 2
"""As many kinds of reserved bits may be forgotten one by one; who has more wrong looks at none."""


@dataclass(frozen=True, slots=True, order=True)
class Cause:
    """A rule that a witness has wrong, whatever the level and the page size, and how.

    Of entries it says only whether they are the leaf, which maps the page, or above the leaf; of
    pages at the most whether they are large.
    """

    witness: str
    rule: str
    said: str
    truth: str

    def __str__(self) -> str:
        """Return the cause in words, which don't name the witness."""
        if self.truth == DUE:
            return f"{self.rule} is due: {self.said}"
        return f"{self.rule}: says {self.said}, it is {self.truth}"

    @property
    def parts(self) -> tuple[str, ...]:
        """The rules that one access breaks at once, each as the cause of one alone has it."""
        return _split(self.rule, _SEVERAL)

    @property
    def texts(self) -> tuple[str, ...]:
        """The cause of each of its parts in words: what a baseline lists, sorted."""
        return tuple(sorted(str(replace(self, rule=rule)) for rule in self.parts))


@dataclass(frozen=True, slots=True)
class Part:
    """One of the rules that a finding breaks at once: its cause in words, and the rule itself.

    `text` is what a baseline lists; `rule` has the level and the page size as well.
    """

    text: str
    rule: str


def parts_of(signature: Signature) -> tuple[Part, ...]:
    """Return the rules that what a signature tells of breaks at once."""
    cause = cause_of(signature)
    texts = [str(replace(cause, rule=rule)) for rule in cause.parts]
    rules = _split(signature.rule, _RULES_AT_ONCE)
    if len(rules) != len(texts):  # The rule is about several levels, and names them together.
        rules = (signature.rule,) * len(texts)
    return tuple(map(Part, texts, rules))


def _split(rule: str, patterns: Iterable[tuple[re.Pattern[str], str]]) -> tuple[str, ...]:
    for pattern, by in patterns:
        found = pattern.fullmatch(rule)
        if found is not None:
            head, names, tail = found.groups()
            return tuple(f"{head}{name}{tail}" for name in names.split(by))
    return (rule,)


def names_of(text: str) -> tuple[str, ...]:
    """Return the names that `Part.text` may be shown under: its own, and that of both halves.

    A right whose place isn't told is that of the leaf, or of what is above it.
    """
    rule, says, answers = text.partition(": says ")
    found = _HALF.fullmatch(rule)
    if found is not None:
        return text, f"{found[1]}{_OF_BOTH}{found[2]}{says}{answers}"
    places = (" of the leaf", " above the leaf", _OF_BOTH) if _PLACELESS.fullmatch(rule) else ()
    return (text, *(f"{rule}{place}{says}{answers}" for place in places))


def is_listed(text: str, listed: Collection[str]) -> bool:
    """Return whether a list of causes in words has one of `Cause.texts`.

    A right whose place isn't told is that of the leaf, or of what is above it.
    """
    rule, says, answers = text.partition(": says ")
    places = ("", " of the leaf", " above the leaf")
    return any(f"{rule}{place}{says}{answers}" in listed for place in places)


def cause_of(signature: Signature) -> Cause:
    """Return the cause that a signature tells of."""
    rule, said, truth = signature.rule, signature.said, signature.truth
    for pattern, words in _RULES:
        found = pattern.fullmatch(rule)
        if found is not None:
            rule = found.expand(words)
            break
    if rule.endswith(_IN_CODE):
        said, truth = _only_one(said, truth, "none", ("clear", "set"))
    if _MARK.search(rule):
        rule = _MARK.sub(lambda found: f"{found[1]} {_PLACES[found[2]]}", rule)
        said, truth = _only_one(said, truth, "otherwise", ("clear", "set"))
    return Cause(signature.witness, rule, said, truth)


def _only_one(said: str, truth: str, nothing: str, words: tuple[str, str]) -> tuple[str, str]:
    """Return which of two sets of bits is empty, in words; the sets where neither is."""
    if nothing not in (said, truth):
        return said, truth
    return words[said != nothing], words[truth != nothing]


def joined(
    items: Iterable[T],
    signature: Callable[[T], Signature],
    form: Callable[[T], Form | None] = lambda _: None,
) -> list[tuple[Cause, list[T]]]:
    """Return the items by cause, in the order of the first of each.

    Two causes of one witness with the same answers are one where they are two halves of a rule,
    which the cause is then named by: a right or an A bit of the leaf, and above the leaf; three or
    more kinds of reserved bits. What breaks several rules at once goes to the first of them that
    another item breaks alone. They are one, too, where an item of each has a smallest case of the
    same `form`; the cause of the first is that of both. Each item is in one list.
    """
    groups: dict[Cause, list[T]] = {}
    for item in items:
        groups.setdefault(cause_of(signature(item)), []).append(item)
    names = _named(groups)
    found: dict[Cause, list[T]] = {}
    known: dict[tuple[str, str, str, Form], Cause] = {}
    for cause, members in groups.items():
        forms = [each for each in map(form, members) if each is not None]
        keys = [(cause.witness, cause.said, cause.truth, each) for each in forms]
        alike = [known[key] for key in keys if key in known]
        name = names[cause] if names[cause] in found or not alike else alike[0]
        found.setdefault(name, []).extend(members)
        for key in keys:
            known.setdefault(key, name)
    return list(found.items())


def _named(causes: Iterable[Cause]) -> dict[Cause, Cause]:
    """Return the cause that each of these is shown under."""
    alike: dict[tuple[str, str, str], list[Cause]] = {}
    for cause in causes:
        alike.setdefault((cause.witness, cause.said, cause.truth), []).append(cause)
    names = {}
    for some in alike.values():
        rules = _wholes([cause.parts[0] for cause in some if len(cause.parts) == 1])
        for cause in some:
            known = [rules[part] for part in cause.parts if part in rules]
            names[cause] = replace(cause, rule=known[0]) if known else cause
    return names


def _wholes(rules: list[str]) -> dict[str, str]:
    """Return for each rule that is broken alone the name of the whole that it is a part of.

    And for a right without a place, of which only what breaks several at once tells.
    """
    names = {rule: rule for rule in rules}
    head = f"{RESERVED}: "
    kinds = sorted(rule.removeprefix(head) for rule in rules if rule.startswith(head))
    if len(kinds) > _OMISSIONS:
        names |= dict.fromkeys((f"{head}{kind}" for kind in kinds), f"{head}{', '.join(kinds)}")
    halves: dict[tuple[str, str], list[str]] = {}
    for rule in rules:
        found = _HALF.fullmatch(rule)
        if found is not None:
            halves.setdefault((found[1], found[2]), []).append(rule)
    for (right, end), some in halves.items():
        if len(some) > 1:
            names |= dict.fromkeys(some, f"{right}{_OF_BOTH}{end}")
        names.setdefault(right + end, names[some[0]])
    return names
