"""The pytest plugin: `check_walker`, and `crosswalk_case` for each file of a folder of cases.

pytest loads this module in every project that shares its environment: it imports nothing else
until a test asks for one of the fixtures.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from crosswalk.emu.findings.baseline import Muting
    from crosswalk.emu.findings.layout import Layout
    from crosswalk.emu.targets.tally import Tally
    from crosswalk.emu.testing.checking import Walker
    from crosswalk.emu.testing.tallies import Row
    from crosswalk.walker.formats import Case

__all__ = [
    "check_walker",
    "crosswalk_case",
    "pytest_addoption",
    "pytest_generate_tests",
    "pytest_sessionfinish",
    "pytest_testnodedown",
]

_CASES, _KEEP = "crosswalk_cases", "--crosswalk-keep"
_KEYS = ("cases", "keep", "ignore", "baseline")  # Of [tool.crosswalk.pytest].
_TALLIES: pytest.StashKey[dict[str, Tally]] = pytest.StashKey()
_OTHERS: pytest.StashKey[list[Row]] = pytest.StashKey()
_SENT = "crosswalk_tallies"  # Under this name a worker of pytest-xdist sends its rows.


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--crosswalk-cases` and its setting, and `--crosswalk-keep`.

    The same may stand in `[tool.crosswalk.pytest]` of pyproject.toml, as `cases` and `keep`, with
    `ignore` and `baseline`, which are those of `crosswalk fuzz`.
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

    An option's is relative to where pytest was called, a setting's to the project's root, or to
    the folder of its pyproject.toml.
    """
    named = config.getoption(option)
    if named is not None:
        return config.invocation_params.dir / str(named)
    named = config.getini(_CASES) if key == "cases" else None
    if named:
        return config.rootpath / str(named)
    root, settings = _settings(config.rootpath)
    return root / str(settings[key]) if settings.get(key) else None


def _muting(config: pytest.Config) -> Muting:
    """Return which wrong answers don't fail; fails for a file that is no baseline."""
    from crosswalk.emu.findings.baseline import read_muting  # noqa: PLC0415  # Only where it is needed.
    from crosswalk.walker.errors import BadInput  # noqa: PLC0415  # The same.

    root, settings = _settings(config.rootpath)
    ignore, baseline = settings.get("ignore", []), settings.get("baseline")
    try:
        return read_muting(
            [ignore] if isinstance(ignore, str) else ignore,
            root / str(baseline) if baseline else None,
        )
    except BadInput as error:
        pytest.fail(f"[tool.crosswalk.pytest]: baseline: {error}", pytrace=False)


def _settings(root: Path) -> tuple[Path, dict[str, str | list[str]]]:
    """Return the folder and the table `[tool.crosswalk.pytest]`; fails where it can't be used."""
    from crosswalk.emu.configuration import read_table  # noqa: PLC0415  # Only where it is needed.
    from crosswalk.walker.errors import BadInput  # noqa: PLC0415  # The same.

    try:
        path, table = read_table("pytest", root)
    except BadInput as error:
        pytest.fail(str(error), pytrace=False)
    for key, value in table.items():
        several = key == "ignore" and isinstance(value, list)
        texts = value if several else [value]
        if key not in _KEYS or not all(isinstance(text, str) for text in texts):
            wanted = "is no text" if key in _KEYS else f"is none of {', '.join(_KEYS)}"
            pytest.fail(f"{path}: [tool.crosswalk.pytest]: {key} {wanted}", pytrace=False)
    return root if path is None else path.parent, dict(table)


@pytest.fixture
def crosswalk_case(request: pytest.FixtureRequest) -> Case:
    """Return a case: a file of the folder `crosswalk_cases`."""
    from crosswalk.walker.formats import load_case  # noqa: PLC0415  # Only where it is asked for.

    path: Path | None = request.param
    if path is None:
        pytest.fail(f"crosswalk_case: {_CASES} = DIR is not set", pytrace=False)
    if path.suffix != ".json":
        here = request.config.invocation_params.dir
        shown = path.relative_to(here) if path.is_relative_to(here) else path
        keep = f"pytest {_KEEP} {shlex.quote(str(shown))}"
        pytest.fail(
            f"crosswalk_case: no case files in {path}: {keep} writes one for each rule that a "
            "walker breaks; until there is one, leave out the tests that take crosswalk_case",
            pytrace=False,
        )
    return load_case(path)


@pytest.fixture(scope="session")
def check_walker(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Yield a started `Checker`, which keeps the smallest case of each rule that is broken."""
    from crosswalk.emu.fuzz.reduce import size_of  # noqa: PLC0415  # Only where it is asked for.
    from crosswalk.emu.testing.checking import Checker, WrongWalker  # noqa: PLC0415  # The same.
    from crosswalk.walker.formats import dump_case  # noqa: PLC0415  # The same.

    folder = _folder(request.config, _KEEP, "keep")
    kept: dict[str, tuple[int, ...]] = {}
    checker = Checker(_muting(request.config))
    request.config.stash[_TALLIES] = checker.tallies

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


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:  # noqa: ARG001  # pytest-xdist's hook.
    """Take what the walkers answered in a worker of pytest-xdist, which ends here."""
    rows = getattr(node, "workeroutput", {}).get(_SENT, [])
    node.config.stash.setdefault(_OTHERS, []).extend(map(tuple, rows))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Report an error for each walker that never answered what it claims, in the whole run.

    A layout that a walker declines is no fault of it, as another paging mode is none: so that can't
    be said before the last test. Workers of pytest-xdist leave it to the process that started them.
    """
    config = session.config
    own, others = config.stash.get(_TALLIES, {}), config.stash.get(_OTHERS, [])
    if not own and not others:
        return
    from crosswalk.emu.testing.tallies import complaints, dump, load  # noqa: PLC0415  # Only where it is needed.

    if hasattr(config, "workeroutput"):
        config.workeroutput[_SENT] = dump(own)
        return
    for line in complaints(load([*dump(own), *others])):
        report = pytest.TestReport(
            nodeid="check_walker",
            location=("check_walker", None, "check_walker"),
            keywords={},
            outcome="failed",
            longrepr=line,
            when="teardown",
        )
        session.testscollected += 1  # It counts in the progress that is shown.
        config.hook.pytest_runtest_logreport(report=report)
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
