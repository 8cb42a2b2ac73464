"""Mutants of a module, each with one rule removed or inverted, and their import in its place."""

import ast
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

__all__ = ["ROOT", "Mutant", "Planted", "constants_of", "import_name", "mutants_of", "path_of"]

ROOT = Path(__file__).resolve().parents[2]
"""The project's root."""


def path_of(module: str) -> str:
    """Return the path below the root of a module of the walker, `nested.translate` for one."""
    return f"walker/{module.replace('.', '/')}.py"


def import_name(module: str) -> str:
    """Return the full name that a module of the walker is imported by."""
    return f"crosswalk.walker.{module}"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: where, and the first lines of the statement that it is in, before and after.

    `line` is the first of what is changed, `end` its last.
    """

    module: str
    line: int
    end: int
    function: str
    before: str
    after: str
    write: Callable[[], str] = field(compare=False, repr=False)

    @property
    def source(self) -> str:
        """The whole module with the change in it."""
        return self.write()


_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
}
_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


def mutants_of(module: str, source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module, in the order of its lines."""
    tree = ast.parse(source)
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        for statement, node in _nodes(function):
            for changed in _changes(node):
                yield _mutant(module, tree, (function.name, statement), node, changed)


def constants_of(module: str, source: str) -> Iterator[Mutant]:
    """Yield a mutant for each number that a module or a class of it is given by assignment."""
    tree = ast.parse(source)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for body, name in ((tree.body, module), *((each.body, each.name) for each in classes)):
        for statement in body:
            if not isinstance(statement, ast.Assign):
                continue
            for node in ast.walk(statement):
                match node:
                    case ast.Constant(value=int(value)) if not isinstance(value, bool):
                        changed = ast.Constant(value + 1)
                        yield _mutant(module, tree, (name, statement), node, changed)


def _nodes(function: ast.FunctionDef) -> Iterator[tuple[ast.stmt, ast.AST]]:
    """Yield what a function does, with its statement: not its signature, nor its docstring."""
    for statement in function.body:
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            yield from _parts(statement, statement)


def _parts(node: ast.AST, statement: ast.stmt) -> Iterator[tuple[ast.stmt, ast.AST]]:
    yield statement, node
    for part in ast.iter_child_nodes(node):
        yield from _parts(part, part if isinstance(part, ast.stmt) else statement)


def _changes(node: ast.AST) -> Iterator[ast.AST]:  # noqa: C901  # A table of node types, one case each.
    """Yield what this node may become."""
    match node:
        case ast.BinOp(op=op) if type(op) in _BINARY:
            yield _with(node, op=_BINARY[type(op)]())
        case ast.Compare(ops=[op]) if type(op) in _COMPARISONS:
            yield _with(node, ops=[_COMPARISONS[type(op)]()])
        case ast.BoolOp(op=op, values=[first, *rest]):
            yield _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            if len(rest) == 1:
                yield from (copy.deepcopy(first), copy.deepcopy(rest[0]))
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
            yield copy.deepcopy(operand)
        case ast.IfExp(body=body, orelse=other):
            yield from (copy.deepcopy(body), copy.deepcopy(other))
        case ast.If() | ast.While():
            yield from (_with(node, test=ast.Constant(value)) for value in (True, False))
        case ast.AugAssign():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Subscript()]):
            yield ast.Pass()
        case ast.Break():
            yield ast.Pass()
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            yield ast.Constant(value + 1)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _mutant(
    module: str, tree: ast.Module, place: tuple[str, ast.stmt], node: ast.AST, changed: ast.AST
) -> Mutant:
    function, statement = place
    ast.copy_location(changed, node)
    replace = _Replace(node, changed)

    def write() -> str:
        return ast.unparse(ast.fix_missing_locations(replace.visit(tree)))

    after = _line(replace.visit(statement))
    return Mutant(module, node.lineno, _end(node), function, _line(statement), after, write)  # type: ignore[attr-defined]  # What is changed has a line.


def _end(node: ast.AST) -> int:
    """Return the last line that says what this node does: of a block, that of its condition."""
    test = getattr(node, "test", None) if isinstance(node, ast.If | ast.While) else node
    return test.end_lineno or node.lineno  # type: ignore[union-attr,attr-defined,no-any-return]  # As above.


def _line(node: ast.AST) -> str:
    return ast.unparse(ast.fix_missing_locations(node)).splitlines()[0]


class _Replace(ast.NodeTransformer):
    """Puts one node in another's place, in copies of all that lies above."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        """Return the node, or what stands in its place."""
        if node is self._old:
            return self._new
        changed = copy.copy(node)
        for name, value in ast.iter_fields(node):
            if isinstance(value, list):
                setattr(changed, name, [self._item(item) for item in value])
            elif isinstance(value, ast.AST):
                setattr(changed, name, self.visit(value))
        return changed

    def _item(self, item: object) -> object:
        return self.visit(item) if isinstance(item, ast.AST) else item


class Planted(MetaPathFinder, Loader):
    """Imports another source where a module is asked for by its full name."""

    def __init__(self, name: str, source: str) -> None:
        self._name, self._source = name, source
        self.used = False
        """Whether the source was run: what is imported may come from another finder."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for this module alone."""
        return spec_from_loader(fullname, self) if fullname == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        """Run the source."""
        self.used = True
        exec(compile(self._source, f"{self._name}.py", "exec"), module.__dict__)  # noqa: S102  # That is what a mutant is for.
