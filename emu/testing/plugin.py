"""The pytest plugin: `check_walker`, and `crosswalk_case` for each file of a folder of cases.

pytest loads this module in every project that shares its environment: it imports nothing else
until a test asks for one of the fixtures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crosswalk.emu.findings.layout import Layout
    from crosswalk.emu.testing.checking import Walker
    from crosswalk.walker.formats import Case

__all__ = [
    "check_walker",
    "crosswalk_case",
    "pytest_addoption",
    "pytest_generate_tests",
]

_CASES, _KEEP = "crosswalk_cases", "--crosswalk-keep"
_KEYS = ("cases", "keep")  # Of [tool.crosswalk.pytest].


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--crosswalk-cases` and its setting, and `--crosswalk-keep`.

    The same may stand in `[tool.crosswalk.pytest]` of pyproject.toml, as `cases` and `keep`.
    """
    group = parser.getgroup("crosswalk", "page-table walkers against an emulated MMU")
    group.addoption(
        "--crosswalk-cases", metavar="DIR", help="case files for the fixture crosswalk_case"
    )
    group.addoption(
        _KEEP, metavar="DIR", help="write a case file here for each rule that a walker breaks"
    )
    parser.addini(_CASES, "folder of case files, from the project's root")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise tests that take `crosswalk_case` by the case files."""
    if "crosswalk_case" in metafunc.fixturenames:
        folder = _folder(metafunc.config, "--crosswalk-cases", "cases")
        paths = sorted(folder.glob("*.json")) if folder is not None else []
        # Without a file the test isn't left out, it fails: the folder is what the fixture gets.
        names = [path.stem for path in paths] or ["no-cases"]
        metafunc.parametrize("crosswalk_case", paths or [folder], ids=names, indirect=True)


def _folder(config: pytest.Config, option: str, key: str) -> Path | None:
    """Return the folder that an option names, or else the setting `key`; None without either.

    An option's is relative to where pytest was called, a setting's to the project's root.
    """
    named = config.getoption(option)
    if named is not None:
        return config.invocation_params.dir / str(named)
    named = config.getini(_CASES) if key == "cases" else None
    named = named or _settings(config.rootpath).get(key)
    return config.rootpath / named if named else None


def _settings(root: Path) -> dict[str, str]:
    """Return the table `[tool.crosswalk.pytest]`; fails where it can't be used."""
    from crosswalk.emu.configuration import read_table  # noqa: PLC0415  # Only where it is needed.
    from crosswalk.walker.errors import BadInput  # noqa: PLC0415  # The same.

    try:
        path, table = read_table("pytest", root)
    except BadInput as error:
        pytest.fail(str(error), pytrace=False)
    for key, value in table.items():
        if key not in _KEYS or not isinstance(value, str):
            wanted = "is no text" if key in _KEYS else f"is none of {', '.join(_KEYS)}"
            pytest.fail(f"{path}: [tool.crosswalk.pytest]: {key} {wanted}", pytrace=False)
    return dict(table)


@pytest.fixture
def crosswalk_case(request: pytest.FixtureRequest) -> Case:
    """Return a case: a file of the folder `crosswalk_cases`."""
    from crosswalk.walker.formats import load_case  # noqa: PLC0415  # Only where it is asked for.

    path: Path | None = request.param
    if path is None:
        pytest.fail(f"crosswalk_case: {_CASES} = DIR is not set", pytrace=False)
    if path.suffix != ".json":
        pytest.fail(f"crosswalk_case: no case files in {path}", pytrace=False)
    return load_case(path)


@pytest.fixture(scope="session")
def check_walker(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Yield a started `Checker`, which keeps the smallest case of each rule that is broken."""
    from crosswalk.emu.fuzz.reduce import size_of  # noqa: PLC0415  # Only where it is asked for.
    from crosswalk.emu.testing.checking import Checker, WrongWalker  # noqa: PLC0415  # The same.
    from crosswalk.walker.formats import dump_case  # noqa: PLC0415  # The same.

    folder = _folder(request.config, _KEEP, "keep")
    kept: dict[str, tuple[int, ...]] = {}
    checker = Checker()

    def check(walker: Walker, layout: Layout | Case, *, claims: str | None = None) -> None:
        __tracebackhide__ = True
        try:
            checker(walker, layout, claims=claims)
        except WrongWalker as wrong:
            if folder is not None and wrong.case is not None:
                size = size_of(wrong.case)
                # Of the many that Hypothesis tries, the smallest.
                if size < kept.get(wrong.name, (*size, 0)):
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / f"{wrong.name}.json").write_bytes(dump_case(wrong.case))
                    kept[wrong.name] = size
            raise

    checker.start()
    yield check
    checker.close()
