"""One crash of a walker under test doesn't hide what else is wrong with it."""

import pytest

from crosswalk.emu.fuzz.executor import Executor
from crosswalk.emu.fuzz.generate.layouts import generate
from crosswalk.emu.targets.questions import MOST_FAILURES, PUT_ASIDE
from crosswalk.emu.targets.registry import open_target
from tests.emu.targets.walkers import python_walker

WALKER = """
import os
from crosswalk.walker import Translation, translate


def f(memory, context, access):
    {act}
    said = translate(memory, context, access)
    if not isinstance(said, Translation):
        return None
    return said.pa ^ (8 if access.type else 0)


f.claims = "rights"
"""


def asked(folder, act):
    layout = generate(0, 2, accesses=200)
    target = open_target(python_walker(folder, WALKER.format(act=act)))
    try:
        return layout, Executor(target=target).run(lambda: layout)
    finally:
        target.close()


@pytest.mark.parametrize(
    ("what", "said"),
    [("os.abort()", "crash, died of SIGABRT"), ("return 'what?'", "nonsense, no physical address")],
)
def test_one_failure_has_a_case_of_its_own_and_the_rest_is_judged(tmp_path, what, said):
    bad = int(generate(0, 2, accesses=200).accesses.va[100])
    layout, result = asked(tmp_path, f"if access.va == {bad:#x}: {what}")
    failed = [each for each in result.findings if each.signature.said.startswith(said)]
    assert 1 == len(failed)
    (probe,) = failed[0].case.probes
    assert bad == probe.va
    assert int((layout.accesses.va == bad).sum()) == failed[0].count
    wrong = sum(each.count for each in result.findings) - failed[0].count
    assert wrong > 20
    assert len(layout.accesses) - failed[0].count == result.answered
    assert {} == result.not_asked


def test_after_too_many_failures_the_rest_is_counted_as_not_asked(tmp_path):
    layout, result = asked(tmp_path, "os.abort()")
    assert 0 == result.answered
    assert {PUT_ASIDE: len(layout.accesses) - MOST_FAILURES} == dict(result.not_asked)
    assert [MOST_FAILURES] == [each.count for each in result.findings]
