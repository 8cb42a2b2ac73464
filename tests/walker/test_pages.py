from hypothesis import HealthCheck, given, settings

from crosswalk.walker import mappings
from crosswalk.walker.pages import pages_of
from tests.random_tables import extended_tables
from tests.tables import PageTables, context

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(extended_tables())
def test_mappings_become_columns_and_come_back(tables):
    every = list(mappings(tables.memory, tables.context))
    assert every == [each for block in pages_of(every) for each in block]


def test_no_more_mappings_are_read_ahead_than_are_said():
    tables = PageTables().map(0x7000, 0x5000)
    (page,) = mappings(tables.memory, context())
    read = []

    def endless():
        while True:
            read.append(page)
            yield page

    assert 1024 == len(next(pages_of(endless())))
    assert 1024 == len(read)
