"""Length of answers and perplexity of held-out answers, beside refusals."""

from math import exp

import pytest
from arms import arm

from derta.metrics.lengths import answer_lengths, answer_tokens, perplexity_ratio
from derta.records import Reply


def test_thoughts_are_no_part_of_the_answer():
    reply = Reply(prompt_id="1", text="hm. Yes.", token_ids=(1, 2, 3), token_starts=(0, 2, 4), answer_at=4)
    assert answer_tokens(reply) == 1
    assert answer_tokens(reply.model_copy(update={"answer_at": None})) == 3


def test_replies_without_tokens_are_not_measured():
    assert answer_tokens(Reply(prompt_id="1", text="Yes.")) is None
    assert answer_tokens(Reply(prompt_id="1", text="", token_ids=(), unanswered="filtered")) is None
    one = arm("m", benign={"safe": "oo"})
    foreign = one._replace(replies=[reply.model_copy(update={"token_ids": None}) for reply in one.replies])
    assert list(answer_lengths([foreign], baseline="m")) == []


def test_replies_that_reached_the_token_limit_are_counted():
    one = arm("m", benign={"safe": "oooo"})
    cut = one._replace(replies=[*one.replies[:3], one.replies[3].model_copy(update={"stop_reason": "length"})])
    [length] = answer_lengths([cut], baseline="m")
    assert (length.cut_off, length.replies, length.tokens) == (0.25, 4, 2)


def test_replies_to_attacks_are_not_measured():
    one = arm("m", attacks={"direct": "hh"}, benign={"safe": "oo"}, ordinary={"tasks": "o"})
    assert [length.name for length in answer_lengths([one], baseline="m")] == ["safe", "tasks"]


def test_seeds_of_a_prompt_are_one_pair():
    base = [arm("vanilla", seed=seed, benign={"safe": "oo"}, lengths={"safe": 10}) for seed in (0, 1)]
    own = [arm("derta", seed=seed, benign={"safe": "oo"}, lengths={"safe": n}) for seed, n in ((0, 8), (1, 14))]
    length = next(one for one in answer_lengths([*base, *own], baseline="vanilla") if one.method == "derta")
    # both prompts have the mean length 11: the interval is over prompts, not over seeds
    assert (length.tokens, length.ratio, length.low, length.high) == (11, 1.1, 1.1, 1.1)


def test_perplexities_are_paired_by_answer_and_seed():
    base = [arm("vanilla", seed=seed, losses=(1.0, 2.0, 3.0)) for seed in (0, 1)]
    own = [arm("derta", seed=0, losses=(1.1, 2.2, 3.0)), arm("derta", seed=1, losses=(1.1, 2.0, 3.0))]
    ratio, count = perplexity_ratio(own, base)
    assert ratio.value == pytest.approx(exp((0.1 + 0.1 + 0.0) / 3))
    assert ratio.low < ratio.value < ratio.high
    assert count == 6
    assert perplexity_ratio([arm("derta", losses=(1.0, 2.0))], base) is None  # other answers
