"""The table of walkers: a row says what a campaign found, and rows of other machines stay."""

import pytest

from scripts.upkeep.walkers import PAGE, WALKERS, Walker, campaign, main, row, version_of, with_rows

FOUND = {
    "asked": {"pae": 10, "4level": 2000, "5level": 5},
    "answered": {"pae": 10, "4level": 1500, "5level": 0},
    "claims": {"translation": {}},
    "findings": [
        {"cause": "few", "count": 3, "entries": 2},
        {"cause": "many", "count": 1234, "entries": 4},
    ],
}
ROW = "| drgn 1.0 | translation | pae, 4level | 1,510 of 2,015 | many (1,234; 4)<br>few (3; 2) |\n"


def test_a_row_has_what_was_answered_and_what_was_found_most_first():
    assert ROW == row(Walker("drgn", "exec:drgn", ()), "1.0", FOUND)


def test_a_walker_that_is_right_has_a_row_too():
    right = row(Walker("ours", "exec:ours", ()), "2", FOUND | {"findings": []})
    assert right.endswith("| nothing |\n")


def test_rows_are_in_one_order_and_those_that_are_not_made_stay():
    first, second = WALKERS[1].name, WALKERS[2].name
    page = f"before\n<!-- scripts/walkers-table -->\n| a |\n|---|\n| {second} old |\n\nafter\n"
    told = with_rows(page, {first: f"| {first} new |\n"})
    assert f"| {first} new |\n| {second} old |\n\nafter\n" in told
    assert with_rows(told, {second: f"| {second} newer |\n"}).endswith(
        f"| {first} new |\n| {second} newer |\n\nafter\n"
    )


def test_a_walker_that_is_not_installed_has_no_version():
    assert None is version_of(Walker("none", "exec:none", ("/no/such/python", "-c", "")))
    assert None is version_of(Walker("none", "exec:none", ("false",)))


def test_a_campaign_finds_the_planted_bug_of_an_example():
    walker = Walker("broken", "python:docs/examples/broken_walker.py:translate", ())
    found = row(walker, "1", campaign(walker, cases=1))
    assert "R/W above the leaf: says allowed, it is refused" in found


def test_the_page_has_the_table_and_a_row_for_each():
    page = PAGE.read_text("utf-8")
    assert with_rows(page, {}) == page
    for each in WALKERS:
        assert f"\n| {each.name} " in page


def test_help_says_what_it_is_for(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--bochscpu-python" in capsys.readouterr().out
