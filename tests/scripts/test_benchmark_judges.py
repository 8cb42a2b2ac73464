"""What scripts/bench --judges measures: what all are asked, and what is said of who isn't there."""

from dataclasses import replace

import numpy as np
import pytest

from crosswalk.emu.judges.judge import Reason, Unjudged
from scripts.benchmarks import judges

ROW = {"judge": "nobody", "version": "1", "start_cpu": 0.0, "start_wall": 0.0, "peak_mib": 1.0}


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(judges, "_SHAPES", {"small": (2, 15), "large": (1, 200)})


def test_a_judge_is_measured_by_what_it_answered():
    row = judges._measured("unicorn", 1)

    small, large = row["shapes"]["small"], row["shapes"]["large"]
    assert (30, 30, 0) == (small["asked"], small["answered"], small["boots"])
    assert 100 < large["answered"] <= large["asked"] <= 200
    assert small["accesses_a_cpu_second"] == pytest.approx(30 / small["cpu"])


class Answers:
    """A judge with these answers to all."""

    name = "nobody"

    def __init__(self, answers):
        self.answers = answers

    def accesses(self, _questions):
        return self.answers


def test_wrong_answers_are_counted(capsys):
    asked = judges._questions(1, 200)
    answers = judges.open_judge("unicorn").accesses(asked)
    answers[0].outcomes.error_code[:7] ^= 2
    row = judges._shape(Answers(answers), None, asked, 1, [0.0, 0.0])
    judges.show_judges([ROW | {"shapes": {"small": row, "large": row}}])

    assert 7 == row["diverged"]
    assert "nobody, small: 7 diverged" in capsys.readouterr().out


def test_a_death_is_no_speed():
    asked = judges._questions(1, 200)
    (answer,) = judges.open_judge("unicorn").accesses(asked)
    why = np.ones_like(answer.why)
    dead = replace(answer, why=why, reasons=(Reason(Unjudged.ENDED, "it hangs"),))

    with pytest.raises(ValueError, match=f"nobody: ended {len(why)} times"):
        judges._shape(Answers([dead]), None, asked, 1, [0.0, 0.0])


def test_who_isnt_there_is_named_with_the_reason(capsys):
    row = judges._measured("bochs:/nobody", 1)
    judges.show_judges([row])

    assert "| bochs | not measured: /nobody: no such command |" in capsys.readouterr().out
