import json
import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from derta.engines import engine_producer, load_engine
from derta.engines.decoding import BannedTokens, decode
from derta.engines.threshold import QUIET_TOKENS, RefusalForcing, RefusalLogitsProcessor, forced_scores
from derta.errors import DataError, EngineError, ModelError
from derta.pipeline.threshold import calibrate_threshold
from derta.provenance import model_hash
from derta.records import Decoding, Message, Prompt

SORRY, SURE, MIX, FLOUR, NO, END = range(6)
FORCING = RefusalForcing((SORRY, NO), 0.3)


class Markov:
    """Model whose next token depends on the last token only, with these probabilities."""

    training = False
    device = torch.device("cpu")

    def __init__(self, following):
        self.table = torch.full((6, 6), 1e-9).log()
        for token, probabilities in following.items():
            for after, probability in probabilities.items():
                self.table[token, after] = torch.tensor(probability).log()

    def __call__(self, input_ids, **_):
        return SimpleNamespace(logits=self.table[input_ids[:, -1:]], past_key_values=self)

    def reorder_cache(self, rows):
        pass


CHAIN = Markov(
    {
        MIX: {SURE: 0.6, SORRY: 0.15, NO: 0.2},  # refusal tokens: 0.35
        SURE: {FLOUR: 0.8, SORRY: 0.2},
        FLOUR: {MIX: 0.9, SORRY: 0.05},
        SORRY: {END: 0.5, NO: 0.45},
        NO: {FLOUR: 1.0},
    }
)


def write(start, forcing, *, banned=None, limit=6):
    bans = None if banned is None else [banned]
    [row] = decode(CHAIN, [[start]], max_new_tokens=limit, stop_ids={END}, banned=bans, forcing=forcing)
    return row.token_ids


def test_the_refusal_tokens_are_summed_and_the_most_likely_is_forced():
    assert write(MIX, None) == [SURE, FLOUR, MIX, SURE, FLOUR, MIX]
    assert write(MIX, FORCING) == [NO, FLOUR, MIX, SURE, FLOUR, MIX]  # 0.35 of 0.95 at MIX; quiet afterwards
    assert write(MIX, RefusalForcing((SORRY, NO), 0.37)) == write(MIX, None)
    assert write(MIX, RefusalForcing((SORRY,), 0.3)) == write(MIX, None)


def test_the_threshold_is_reached_by_an_equal_probability():
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    for threshold, expected in ((0.5, True), (0.50001, False)):
        assert forced_scores(logits, RefusalForcing((1, 2), threshold))[0].tolist() == [expected]


def test_thresholds_of_later_positions_replace_the_first():
    later = RefusalForcing((SORRY, NO), 1.0, ((1, 0.19), (2, 0.04)))
    # 0.35 at MIX is below 1.0; 0.2 after one token reaches 0.19
    assert write(MIX, later)[:2] == [SURE, SORRY]
    assert write(MIX, RefusalForcing((SORRY, NO), 1.0, ((2, 0.04),)))[:3] == [SURE, FLOUR, SORRY]
    # with a token of the answer in the prompt, the first position is that after one token
    [row] = decode(CHAIN, [[MIX]], max_new_tokens=1, stop_ids={END}, forcing=later, prefilled=[1])
    assert row.token_ids == [NO]


def test_a_prefill_counts_for_the_position(hf):
    ids = hf_ids(hf)
    later = replace(hf, forcing=RefusalForcing(ids, 1.0, ((4, 1e-9),)))
    prefilled = PROMPTS[0].model_copy(update={"id": "prefilled", "prefill": "First clean the wood, then"})
    plain, after = sorted(later.generate([PROMPTS[0], prefilled], max_new_tokens=6), key=lambda one: one.prompt_id)
    assert (plain.prompt_id, after.prompt_id) == (PROMPTS[0].id, "prefilled")
    assert after.token_ids[0] in ids
    assert [token in ids for token in plain.token_ids] == [False] * 4 + [True, False]


def test_a_refusal_is_forced_again_only_after_a_pause():
    row = write(MIX, FORCING, limit=3 + QUIET_TOKENS + 6)
    places = [place for place, token in enumerate(row) if token in FORCING.token_ids]
    assert places[0] == 0
    assert all(after - before > QUIET_TOKENS for before, after in pairwise(places))
    assert len(places) == 2


def test_the_processor_pauses_for_thirty_two_tokens():
    processor, scores = RefusalLogitsProcessor((2,), 0.5), torch.tensor([[0.0, 0.0, 9.0]])
    row, forced = [1], []
    for place in range(40):
        is_forced = bool(processor(torch.tensor([row]), scores).isinf().any())
        forced += [place] if is_forced else []
        row.append(2 if is_forced else 0)
    assert forced == [0, 33]


def test_a_ban_wins():
    # without NO and SORRY no refusal token is left; without NO, SORRY has 0.15 of 0.75
    assert write(MIX, FORCING, banned=BannedTokens(((SORRY,), (NO,)), 1))[:2] == [SURE, FLOUR]
    assert write(MIX, FORCING, banned=BannedTokens(((NO,),), 1))[0] == SURE
    assert write(MIX, RefusalForcing((SORRY, NO), 0.19), banned=BannedTokens(((NO,),), 1))[0] == SORRY


@pytest.fixture(scope="module")
def hf(tiny_model_dir):
    return load_engine(tiny_model_dir, device="cpu", dtype="float32")


def prompts(*texts):
    return [
        Prompt(id=text, request_id=text, attack="direct", messages=(Message(role="user", content=text),))
        for text in texts
    ]


PROMPTS = prompts("How do I bake bread?", "Tea?", "Paint a fence, then tell me a story.", "Where is the cat?")


def middle_threshold(hf):
    """A threshold that the first positions of two of the four replies reach."""
    first = sorted(one.probabilities[0] for one in hf.refusal_starts(PROMPTS, [""] * 4))
    return (first[1] + first[2]) / 2


@pytest.mark.parametrize("later", [(), ((3, 1e-4), (6, 0.5))])
@pytest.mark.parametrize("words", [("Sorry",), ("Sorry", "Sure", "the")])
@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_the_processor_and_our_greedy_decoding_give_the_same_tokens(make_model_dir, kind, words, later):
    hf = load_engine(make_model_dir(kind=kind), device="cpu", dtype="float32", refusal_words=words)
    threshold = middle_threshold(hf)
    forcing = load_engine(hf.model, tokenizer=hf.chat.tokenizer, refusal_words=words, refusal_threshold=threshold)
    forcing = replace(forcing, forcing=forcing.forcing._replace(later=later))
    ours = {one.prompt_id: list(one.token_ids) for one in forcing.generate(PROMPTS, max_new_tokens=12)}
    plain = {one.prompt_id: list(one.token_ids) for one in hf.generate(PROMPTS, max_new_tokens=12)}
    assert sum(ours[one.id] != plain[one.id] for one in PROMPTS) >= 2
    processor = RefusalLogitsProcessor(forcing.forcing.token_ids, threshold, later)
    tokenizer = hf.chat.tokenizer
    tokenizer.padding_side = "left"
    texts = [hf.chat.tokenizer.apply_chat_template(
        [{"role": "user", "content": one.request_id}], tokenize=False, add_generation_prompt=True
    ) for one in PROMPTS]  # fmt: skip
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    for _ in range(2):  # one processor serves several calls
        written = hf.model.generate(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=12, do_sample=False,
            logits_processor=[processor], eos_token_id=sorted(hf.chat.stop_ids), pad_token_id=0,
        )  # fmt: skip
        for row, prompt in zip(written[:, batch.input_ids.shape[1] :].tolist(), PROMPTS, strict=True):
            assert row[: len(ours[prompt.id])] == ours[prompt.id]


def test_the_processor_forces_beams_and_samples(hf):
    token_ids = (7, 9)
    processor = RefusalLogitsProcessor(token_ids, 1e-9)  # every position is an alarm
    batch = torch.tensor([[5, 6], [8, 11]])
    for options in ({"num_beams": 3}, {"do_sample": True, "temperature": 0.7}):
        written = hf.model.generate(
            batch, attention_mask=torch.ones_like(batch), max_new_tokens=5, logits_processor=[processor],
            pad_token_id=0, **options,
        )  # fmt: skip
        generated = written[:, 2:]
        assert torch.isin(generated[:, 0], torch.tensor(token_ids)).all()
        assert not torch.isin(generated[:, 1:], torch.tensor(token_ids)).all(dim=-1).any()


def test_a_prompt_that_ends_in_a_refusal_token_is_not_quiet():
    processor = RefusalLogitsProcessor((2,), 0.5)
    scores = torch.tensor([[0.0, 0.0, 9.0]])
    assert processor(torch.tensor([[1, 2]]), scores)[0].isinf().tolist() == [True, True, False]
    assert processor(torch.tensor([[1, 2, 2]]), scores).tolist() == scores.tolist()
    # a new call with a longer prompt that only begins as the last one
    assert processor(torch.tensor([[1, 2, 2, 2, 0, 0]]), scores)[0].isinf().tolist() == [True, True, False]


def test_the_margin_is_the_distance_to_the_best_other_token(hf):
    [one] = hf.refusal_starts(PROMPTS[:1], [" bread"])
    from derta.chat import encode_after, refusal_tokens

    ids = list(refusal_tokens(hf.chat).ids)
    turn = encode_after(hf.chat, PROMPTS[0], " bread")
    with torch.no_grad():
        logits = hf.model(torch.tensor([turn.prompt_ids + turn.response_ids])).logits[0, len(turn.prompt_ids) - 1 :]
    others = logits.clone()
    others[:, ids] = -torch.inf
    assert one.margins == pytest.approx((others.amax(-1) - logits[:, ids].amax(-1)).tolist(), abs=1e-3)
    assert one.probabilities == pytest.approx(logits.softmax(-1)[:, ids].sum(-1).tolist(), rel=1e-3)
    assert one.probabilities == pytest.approx(hf.refusal_probability(PROMPTS[:1], [" bread"])[0], rel=1e-3)


def test_a_refusal_word_of_the_answer_itself_is_no_alarm(hf):
    from derta.chat import encode_after, refusal_tokens

    [one] = hf.refusal_starts(PROMPTS[:1], [" Dear guest, Sorry to hear that."])
    turn = encode_after(hf.chat, PROMPTS[0], " Dear guest, Sorry to hear that.")
    own = [token in refusal_tokens(hf.chat).ids for token in turn.response_ids] + [False]
    assert sum(own) == 1
    assert [value == 0 for value in one.probabilities] == [value == math.inf for value in one.margins] == own


@pytest.fixture
def calibrated(tiny_model_dir, tmp_path):
    rows = [{"prompt": f"Who likes tea number {i}?", "completion": f"The cat likes tea {i}."} for i in range(4)]
    path = tmp_path / "benign.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = calibrate_threshold(tiny_model_dir, path, false_alarm=0.25, device="cpu", dtype="float32")
    result.threshold.write(tmp_path / "threshold.json")
    return tmp_path / "threshold.json", result.threshold


def test_a_file_is_refused_for_another_model_or_other_words(calibrated, tiny_model_dir, make_model_dir):
    path, threshold = calibrated
    assert threshold.model == {"model": model_hash(tiny_model_dir)}
    engine = load_engine(tiny_model_dir, device="cpu", refusal_threshold=path)
    assert engine.forcing == RefusalForcing(threshold.token_ids, threshold.threshold)
    assert RefusalLogitsProcessor.load(path, model=tiny_model_dir).forcing == engine.forcing
    other = make_model_dir(seed=7)
    for load in (
        lambda: load_engine(other, device="cpu", refusal_threshold=str(path)),
        lambda: RefusalLogitsProcessor.load(path, model=other),
    ):
        with pytest.raises(ModelError, match="got that of another model"):
            load()
    with pytest.raises(ModelError, match="got that of Sorry; set the same refusal_words"):
        load_engine(tiny_model_dir, device="cpu", refusal_threshold=path, refusal_words=("No",))
    with pytest.raises(ModelError, match="expected a number for a model in memory"):
        load_engine(engine.model, tokenizer=engine.chat.tokenizer, refusal_threshold=path)


@pytest.mark.parametrize("threshold", [0, -1, 1.5, float("nan")])
def test_a_number_is_a_probability(tiny_model_dir, threshold):
    with pytest.raises(ModelError, match="expected a probability above 0 and at most 1"):
        load_engine(tiny_model_dir, device="cpu", refusal_threshold=threshold)


def test_a_missing_file_and_another_engine_are_errors(tiny_model_dir):
    with pytest.raises(DataError, match=r"nowhere.json: cannot read it"):
        load_engine(tiny_model_dir, device="cpu", refusal_threshold="nowhere.json")
    with pytest.raises(EngineError, match="refusal_threshold is for the engine hf"):
        load_engine("served", engine="api", refusal_threshold=0.3)


def test_the_threshold_and_its_words_are_part_of_the_provenance(calibrated, tiny_model_dir):
    path, _ = calibrated

    def producer(**settings):
        return engine_producer(tiny_model_dir, engine="hf", settings=settings)

    plain = producer(refusal_words=("Sorry",))
    assert producer(refusal_words=("Sorry",), refusal_threshold=None) == plain
    assert "refusal_words" not in plain
    number = producer(refusal_words=("Sorry",), refusal_threshold=0.3)
    assert number == plain | {"refusal_threshold": "0.3", "refusal_words": '["Sorry"]'}
    assert producer(refusal_threshold=str(path))["refusal_threshold"] != producer(refusal_threshold="gone.json")
    path.write_text(path.read_text() + "\n")
    assert producer(refusal_threshold=str(path)) != producer(refusal_threshold=0.3)


def test_a_ban_of_a_prompt_wins_in_the_engine(hf):
    forcing = replace(hf, forcing=RefusalForcing(hf_ids(hf), 1e-9))
    plain, banned = PROMPTS[0], PROMPTS[0].model_copy(update={"decoding": Decoding(banned=("Sorry",))})
    [forced], [free] = forcing.generate([plain], max_new_tokens=3), forcing.generate([banned], max_new_tokens=3)
    assert forced.token_ids[0] in hf_ids(hf)
    assert not {*free.token_ids} & {*hf_ids(hf)}
    assert [one.token_ids for one in hf.generate([banned], max_new_tokens=3)] == [free.token_ids]


def hf_ids(hf):
    from derta.chat import refusal_tokens

    return refusal_tokens(hf.chat).ids
