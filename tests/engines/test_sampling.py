"""Samples are drawn from the model's distribution, whatever their batch."""

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from derta.chat import encode_prompt
from derta.engines import sampling as sampling_module
from derta.engines.decoding import BannedTokens, decode, next_tokens
from derta.engines.hf import load as load_hf
from derta.engines.hf_engine import stop_tokens
from derta.engines.sampling import Draws, TokenDraws, nucleus, sample_tokens, uniform, without_banned
from derta.engines.threshold import RefusalForcing
from derta.records import Decoding, Message, Prompt
from derta.sampling import GREEDY, Sampling

COUNT = 1500
SURE, SORRY, NO, END = range(4)


def prompt(text, **fields):
    return Prompt(id=text, request_id=text, attack="a", messages=(Message(role="user", content=text),), **fields)


@pytest.fixture(scope="module")
def hf(tiny_model_dir):
    return load_hf(tiny_model_dir, device="cpu", dtype="float32")


def by_key(results):
    return {reply.key: reply for reply in results}


def p_value(counts, probabilities):
    """Chi-square test of counts against probabilities; rare tokens are one bin, and impossible ones must not occur."""
    total = sum(counts.values())
    assert all(probabilities[token] > 0 for token in counts)
    common = [token for token, p in enumerate(probabilities) if total * p >= 5]
    observed, expected = [counts[token] for token in common], [total * probabilities[token] for token in common]
    rest = total - sum(expected)
    if rest >= 5:
        observed, expected = [*observed, total - sum(observed)], [*expected, rest]
    scale = sum(observed) / sum(expected)
    return chisquare(observed, [scale * one for one in expected]).pvalue if len(observed) > 1 else 1.0


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (2.0, 0.9), (0.7, 0.6)])
def test_the_first_two_tokens_have_the_distribution_of_a_plain_forward(hf, temperature, top_p):
    sampling = Sampling(temperature=temperature, top_p=top_p, num_samples=COUNT, seed=1)
    replies = [*hf.generate([prompt("Tea?")], max_new_tokens=2, sampling=sampling)]
    stops = stop_tokens(hf.model, hf.chat)
    ids = encode_prompt(hf.chat, prompt("Tea?"))

    def expected(token_ids):
        with torch.no_grad():
            logits = hf.model(torch.tensor([token_ids])).logits[:, -1].double()
        warped = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, logits))
        return warped.softmax(dim=-1)[0].tolist()

    first, chances = Counter(one.token_ids[0] if one.token_ids else None for one in replies), expected(ids)
    stopped = first.pop(None, 0)
    assert p_value(first, [0 if token in stops else one for token, one in enumerate(chances)]) > 1e-3
    assert stopped / COUNT == pytest.approx(sum(chances[token] for token in stops), abs=0.05)
    [(token, _)] = first.most_common(1)
    second = Counter(one.token_ids[1] for one in replies if len(one.token_ids) == 2 and one.token_ids[0] == token)
    chances = expected([*ids, token])
    assert p_value(second, [0 if token in stops else one for token, one in enumerate(chances)]) > 1e-3


def test_a_reply_does_not_depend_on_its_batch_on_other_prompts_or_on_the_number_of_samples(hf):
    prompts = [prompt(text) for text in ("Tea?", "How do I bake bread?", "Paint a fence, twice.")]
    sampling = Sampling(temperature=1.3, top_p=0.95, num_samples=5, seed=4)
    together = by_key(hf.generate(prompts, max_new_tokens=12, sampling=sampling))
    one_by_one = replace(hf, max_batch_tokens=1)
    for one in reversed(prompts):
        more = Sampling(temperature=1.3, top_p=0.95, num_samples=9, seed=4).only((4, 0))
        assert by_key(one_by_one.generate([one], max_new_tokens=12, sampling=more)).items() <= together.items()
    assert len({reply.text for reply in together.values()}) == len(together)
    other = by_key(hf.generate(prompts, max_new_tokens=12, sampling=sampling.model_copy(update={"seed": 5})))
    assert all(other[key].text != reply.text for key, reply in together.items())


def test_a_low_temperature_is_greedy_and_greedy_replies_record_no_seed(hf):
    prompts = [prompt("Tea?"), prompt("How do I bake bread?")]
    greedy = {one.prompt_id: one for one in hf.generate(prompts, max_new_tokens=12, sampling=GREEDY)}
    cold = {one.prompt_id: one for one in hf.generate(prompts, max_new_tokens=12, sampling=Sampling(temperature=1e-4))}
    assert {name: one.text for name, one in greedy.items()} == {name: one.text for name, one in cold.items()}
    assert '"seed"' not in greedy["Tea?"].model_dump_json()
    assert cold["Tea?"].seed is not None


@given(
    st.lists(st.lists(st.floats(-8, 8), min_size=5, max_size=5), min_size=1, max_size=4),
    st.floats(0.05, 1),
    st.floats(0.2, 3),
    st.floats(0, 1, exclude_max=True),
)
def test_the_nucleus_is_that_of_transformers_and_tokens_are_drawn_from_it(logits, top_p, temperature, point):
    scores = torch.tensor(logits, dtype=torch.float64)
    probabilities = (scores / temperature).softmax(dim=-1)
    ours = nucleus(probabilities, top_p)
    cumulative = probabilities.sort(dim=-1, descending=True).values.cumsum(dim=-1)
    distinct = all(len({round(one, 9) for one in row}) == len(row) for row in probabilities.tolist())
    if distinct and (cumulative - top_p).abs().min() > 1e-6:  # ties and sums at the edge depend on the rounding
        theirs = TopPLogitsWarper(top_p)(None, scores / temperature)
        assert torch.equal(ours > 0, theirs > -torch.inf)
    drawn = sample_tokens(scores.float(), TokenDraws(temperature, top_p, [point] * len(logits)))
    slack = nucleus(probabilities, min(1.0, top_p + 1e-5))
    for row, token in enumerate(drawn.tolist()):  # in float32, another token may tie with the last of the nucleus
        assert probabilities[row, token] >= probabilities[row][slack[row] > 0].min() - 1e-6


@pytest.mark.parametrize("top", [1, 4, 1024])
@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.5, 0.9, 1.0])
def test_of_equally_likely_tokens_the_first_are_in_the_nucleus(top, top_p, monkeypatch):
    monkeypatch.setattr(sampling_module, "_TOP", top)
    even = nucleus(torch.full((2, 10), 0.1, dtype=torch.float64), top_p - 1e-9)
    expected = math.ceil(round(10 * top_p, 6))
    assert (even > 0).tolist() == [[place < expected for place in range(10)]] * 2


def test_the_random_numbers_are_uniform_over_the_tokens_of_a_reply_and_over_replies():
    for numbers in ([uniform(7, position) for position in range(2000)], [uniform(seed, 0) for seed in range(2000)]):
        assert kstest(numbers, "uniform").pvalue > 1e-3


class Fixed:
    """Model with the same logits everywhere."""

    training = False
    device = torch.device("cpu")

    def __init__(self, *probabilities):
        self.logits = torch.tensor(probabilities).log()

    def __call__(self, input_ids, **_):
        return SimpleNamespace(logits=self.logits.repeat(len(input_ids), 1, 1), past_key_values=self)

    def reorder_cache(self, rows):
        pass


FIXED = Fixed(0.4, 0.3, 0.2, 0.1)


def draw(bans=None, *, count=COUNT, limit=1, forcing=None):
    draws = Draws(1.0, 1.0, tuple(range(count)))
    banned = None if bans is None else [bans] * count
    rows = decode(FIXED, [[9]] * count, max_new_tokens=limit, stop_ids=(), banned=banned, forcing=forcing, draws=draws)
    return [row.token_ids for row in rows]


@pytest.mark.parametrize(
    ("bans", "chances"),
    [
        (BannedTokens(((SORRY,),)), [4 / 7, 0, 2 / 7, 1 / 7]),
        (BannedTokens(((SORRY,),), top_k=3), [2 / 3, 0, 1 / 3, 0]),
        (BannedTokens(((SURE,), (SORRY,)), top_k=2), [1, 0, 0, 0]),  # all candidates are banned
        (BannedTokens(((SORRY, SORRY),)), [0.4, 0.3, 0.2, 0.1]),
    ],
)
def test_with_bans_tokens_are_drawn_from_the_candidates_that_are_not_banned(bans, chances):
    assert p_value(Counter(token for [token] in draw(bans)), chances) > 1e-3


def test_a_ban_ends_after_its_steps_and_holds_for_sequences():
    rows = draw(BannedTokens(((SORRY,), (SURE, NO)), steps=2), limit=3)
    assert not any(SORRY in row[:2] or row[:2] == [SURE, NO] for row in rows)
    assert p_value(Counter(row[2] for row in rows), [0.4, 0.3, 0.2, 0.1]) > 1e-3


@pytest.mark.parametrize(("threshold", "forced"), [(0.25, True), (0.35, False)])
def test_a_threshold_forces_refusals_in_samples_by_the_models_own_probabilities(threshold, forced):
    first = Counter(row[0] for row in draw(forcing=RefusalForcing((SORRY,), threshold)))
    assert (first == {SORRY: COUNT}) is forced
    logits, rows = FIXED.logits[None], [([], BannedTokens(((SORRY,),)))]
    draws = TokenDraws(1.0, 1.0, [0.5])
    assert next_tokens(logits, rows, RefusalForcing((SORRY,), 0.25), None, draws) != [SORRY]


def test_rows_without_bans_keep_their_logits():
    logits = torch.randn(3, 4)
    assert without_banned(logits, {}, {}) is logits
    assert torch.equal(without_banned(logits, {1: {2}}, {1: None})[[0, 2]], logits[[0, 2]])


def test_the_engine_draws_from_what_a_prompt_bans(hf):
    free = Sampling(temperature=1.0, num_samples=60)
    seen = Counter(one.token_ids[0] for one in hf.generate([prompt("Tea?")], max_new_tokens=1, sampling=free))
    word = hf.chat.tokenizer.decode([seen.most_common(1)[0][0]])
    banned = prompt("Tea?", decoding=Decoding(banned=(word,), steps=1)) if word.strip() else None
    if banned is not None:
        after = [*hf.generate([banned], max_new_tokens=1, sampling=free)]
        assert not any(one.text == word for one in after)
