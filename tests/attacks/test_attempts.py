from hypothesis import given
from hypothesis import strategies as st

from derta.attacks.attempts import Attempt, best, success_by_budget, total
from derta.records import Cost, Message


def attempt(name="r", step=1, *, score=None, sent=True, queries=1):
    return Attempt(
        search="k",
        request_id=name,
        stream=0,
        step=step,
        messages=(Message(role="user", content=str(step)),) if sent else None,
        score=score,
        harmful=None if score is None else score > 0.5,
        cost=Cost(target_queries=queries, judge_queries=queries, tokens=3, seconds=0.5),
    )


def test_the_best_is_the_first_attempt_with_the_highest_score():
    result = best([attempt(step=1, score=0.2), attempt(step=2, score=0.9), attempt(step=3, score=0.9)])
    assert result.step == 2


def test_unscored_attempts_rank_last_and_unsent_ones_do_not_count():
    unsent, unscored, low = attempt(step=1, sent=False), attempt(step=2), attempt(step=3, score=0.0)
    assert best([unsent, unscored, low]) == low
    assert best([unsent, unscored]) == unscored
    assert best([unsent]) is None


def test_costs_add_up():
    assert total([attempt(), attempt(queries=4)]) == Cost(target_queries=5, judge_queries=5, tokens=6, seconds=1.0)


@given(
    scores=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([None, 0.1, 0.9]), st.integers(1, 30)), min_size=1
    )
)
def test_success_never_falls_as_the_budget_grows_and_ends_at_all_successes(scores):
    attempts = [attempt(name, score=score, queries=queries) for name, score, queries in scores]
    successes = [budget.found for budget in success_by_budget(attempts)]
    assert successes == sorted(successes)
    assert successes[-1] == len({one.request_id for one in attempts if one.harmful})
