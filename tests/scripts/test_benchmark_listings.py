import pytest

from scripts.benchmarks import listings
from scripts.benchmarks.trees import HERE, Tree


@pytest.mark.slow
def test_commands_write_the_bytes_of_the_plain_loop():
    rows = listings.measured_listings(1, [Tree(HERE, "here")], count=3000)
    assert {"text", "json", "coalesced", "csv", "parquet", "arrow", "frames"} == {
        row["form"] for row in rows
    }
    assert all(row["here"] > 0 and row["loop"] > 0 for row in rows)


@pytest.mark.slow
def test_a_command_that_writes_other_bytes_than_the_loop_is_an_error(monkeypatch):
    forms = {"text": ("walk", "--level", "2"), "json": ("walk", "--json")}
    monkeypatch.setattr(listings, "_FORMS", forms)
    monkeypatch.setattr(listings, "_PEERS", ("text",))
    with pytest.raises(AssertionError, match="dense, text: here writes other bytes"):
        listings.measured_listings(1, [Tree(HERE, "here")], count=3000)
