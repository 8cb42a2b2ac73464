"""What scripts/bench --judges measures: what all are asked, and what is said of who isn't there."""

import pytest

from scripts.benchmarks import judges


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(judges, "_SHAPES", {"small": (2, 15), "large": (1, 200)})


def test_a_judge_is_measured_by_what_it_answered():
    row = judges._measured("unicorn", 1)

    small, large = row["shapes"]["small"], row["shapes"]["large"]
    assert (30, 30, 0) == (small["asked"], small["answered"], small["boots"])
    assert 100 < large["answered"] <= large["asked"] <= 200
    assert small["accesses_a_cpu_second"] == pytest.approx(30 / small["cpu"])


def test_a_wrong_answer_isnt_measured():
    made = judges._questions(1, 200)
    asked, answers = made[0], judges.open_judge("unicorn").accesses(made)
    answers[0].outcomes.error_code[:] ^= 2

    class Wrong:
        name = "wrong"

        def accesses(self, _questions):
            return answers

    with pytest.raises(ValueError, match="wrong: diverged"):
        judges._shape(Wrong(), None, [asked], 1, [0.0, 0.0])


def test_who_isnt_there_is_named_with_the_reason(capsys):
    row = judges._measured("bochs:/nobody", 1)
    judges.show_judges([row])

    assert "| bochs | not measured: /nobody: no such command |" in capsys.readouterr().out
