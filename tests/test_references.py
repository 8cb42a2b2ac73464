"""What the documents, docstrings and comments name is there: files, modules and what is in them."""

import ast
import importlib
import importlib.util
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("emu", "guest", "walker")
ROOMS = (*PARTS, "tests", "scripts")
_ROOM = "|".join(ROOMS)
FILE = re.compile(rf"(?<![\w./-])(?:{_ROOM}|docs)/[\w./-]+\.(?:py|md|s|json)\b")
DOTTED = re.compile(rf"(?<![\w./\-])(?:crosswalk|{_ROOM})(?:\.[A-Za-z_]\w*)+(?![\w/])")
INVENTED = {"tests/test_tree.py", "tests/test_references.py"}
"""They name on purpose what isn't there."""
FILES = ("bin", "json", "core", "xz", "crosswalk.h")
"""How names of files end that begin like a package's."""


def texts(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each document, and of each module what isn't code in it."""
    documents = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    for path in sorted(documents):
        yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if name not in INVENTED:
                yield name, prose(path.read_text(encoding="utf-8"))


def prose(source: str) -> str:
    """Return the comments and docstrings of a module, those of its constants among them."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [each.string for each in tokens if each.type == tokenize.COMMENT]
    strings = [
        str(node.value.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    return "\n".join([*comments, *strings])


def missing(root: Path, text: str) -> list[str]:
    """Return the files under `root`, and the dotted names, that `text` names and aren't there."""
    files = [name for name in FILE.findall(text) if not (root / name).exists()]
    dotted = [name for name in DOTTED.findall(text) if not name.endswith(FILES)]
    return [*files, *(name for name in dotted if not resolves(name))]


def resolves(dotted: str) -> bool:
    """Return whether a dotted name is a module, or something in one."""
    module, *rest = dotted.split(".")
    if module in PARTS:
        return False  # These have the name of the one package before theirs.
    found = importlib.import_module(module)
    while rest:
        module = f"{module}.{rest[0]}"
        name = rest.pop(0)
        # A package may export a function by the name of its module.
        if hasattr(found, "__path__") and importlib.util.find_spec(module) is not None:
            found = importlib.import_module(module)
        elif hasattr(found, name):
            found = getattr(found, name)
        else:
            return False
    return True


def test_all_that_is_named_is_there():
    found = {name: missing(ROOT, text) for name, text in texts(ROOT)}
    assert len(found) > 300
    assert {} == {name: gone for name, gone in found.items() if gone}


def test_what_is_not_there_is_found(tmp_path):
    (tmp_path / "emu").mkdir()
    (tmp_path / "emu" / "here.py").touch()
    text = "`emu/here.py`, emu/gone.py, `crosswalk.walker.translate.translate`, `walker.translate`"
    assert ["emu/gone.py", "walker.translate"] == missing(tmp_path, text)
    text = "`crosswalk.walker.translate.run`, `crosswalk.emu.gone`"
    assert ["crosswalk.walker.translate.run", "crosswalk.emu.gone"] == missing(tmp_path, text)


def test_comments_and_docstrings_are_read_and_code_is_not():
    source = '"""See `crosswalk.emu.gone`."""\nimport emu\nemu.away()  # As emu/off.py does.\n'
    text = prose(source)
    assert ["emu/off.py", "crosswalk.emu.gone"] == missing(ROOT, text)
