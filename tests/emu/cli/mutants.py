"""Documents that are wrong in one thing, made of a right one."""

import copy
import re


def mutants(document):
    """Each (place, what, document): a key left out or too many, another type, -1, null.

    `place` is as `.attacks[].name`; of a list its first element alone is changed.
    """
    for path in _paths(document):
        value = _at(document, path)
        for what, put in _changes(value):
            yield _place(path), what, _changed(document, path, put)
        if path and isinstance(path[-1], str):
            yield _place(path), "left out", _changed(document, path, _REMOVED)


def survivors(document, fits, allowed):
    """Those taken for right that aren't `allowed`, by patterns of "place what"."""
    fine = [re.compile(each) for each in allowed]
    names = [f"{place} {what}" for place, what, made in mutants(document) if fits(made)]
    return sorted({each for each in names if not any(one.fullmatch(each) for one in fine)})


_REMOVED = object()


def _changes(value):
    if value is not None:
        yield "null", None
    yield "another type", [] if not isinstance(value, list) else {}
    if isinstance(value, int) and not isinstance(value, bool):
        yield "negative", -1
        yield "a text", str(value)
    if isinstance(value, dict):
        yield "a key too many", {**value, "more": None}


def _paths(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _paths(each, (*path, key))
    elif isinstance(value, list) and value:
        yield from _paths(value[0], (*path, 0))


def _at(value, path):
    for step in path:
        value = value[step]
    return value


def _changed(document, path, put):
    if not path:
        return put
    made = copy.deepcopy(document)
    inner = _at(made, path[:-1])
    if put is _REMOVED:
        del inner[path[-1]]
    else:
        inner[path[-1]] = put
    return made


def _place(path):
    return "".join("[]" if step == 0 else f".{step}" for step in path) or "."
