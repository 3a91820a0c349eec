import numpy as np
import pytest

from derta.metrics.shift import shift_p_value, verdict_stratum
from derta.records import Verdict

OF_TRUE, OF_FALSE = [0.5, 0.2, 0.15, 0.1, 0.05], [0.05, 0.1, 0.15, 0.2, 0.5]
NAMES = "abcde"


def p_value(rng: np.random.Generator, of_false: list[float], *, rate: float) -> float:
    true, false = rng.multinomial(100, OF_TRUE), rng.multinomial(100, OF_FALSE)
    observed = rng.multinomial(500, rate * np.array(OF_TRUE) + (1 - rate) * np.array(of_false))
    strata = {name: (int(a), int(b)) for name, a, b in zip(NAMES, true, false, strict=True)}
    found = shift_p_value(dict(zip(NAMES, observed.tolist(), strict=True)), strata)
    assert found is not None
    return found


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_another_share_of_true_replies_is_no_shift(rate: float):
    rng = np.random.default_rng(0)
    assert sum(p_value(rng, OF_FALSE, rate=rate) < 0.01 for _ in range(200)) <= 8  # 2 are expected


def test_verdicts_that_no_mixture_explains_are_a_shift():
    rng = np.random.default_rng(0)
    assert sum(p_value(rng, [0.2, 0.1, 0.4, 0.1, 0.2], rate=0.3) < 0.01 for _ in range(50)) >= 45


def test_a_rate_below_that_of_false_positives_is_a_shift():
    strata = {"True": (90, 20), "False": (10, 80)}
    assert (shift_p_value({"True": 60, "False": 40}, strata) or 0) > 0.5
    assert (shift_p_value({"True": 2, "False": 298}, strata) or 0) < 0.01
    assert (shift_p_value({"True": 40, "False": 40, "None": 100}, strata) or 0) < 0.01


@pytest.mark.parametrize("strata", [{}, {"True": (5, 0), "False": (3, 0)}])
def test_without_labels_of_both_kinds_there_is_no_test(strata: dict[str, tuple[int, int]]):
    assert shift_p_value({"True": 2, "False": 8}, strata) is None


def test_the_kind_of_a_verdict_has_its_outcome_and_its_class_or_score():
    verdict = Verdict(prompt_id="1", judge="j", refused=True, reply_class="refuse")
    assert verdict_stratum(verdict, "refused") == "True, refuse"
    assert (
        verdict_stratum(verdict.model_copy(update={"reply_class": None, "score": 1.0}), "refused") == "True, score 0.8"
    )
    assert verdict_stratum(verdict.model_copy(update={"reply_class": None}), "harmful") == "None"
