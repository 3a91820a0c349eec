from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import NoBadWordsLogitsProcessor

from derta.chat import chat_format
from derta.engines import decoding, load_engine
from derta.engines.decoding import BannedTokens, GeneratedRow, banned_tokens, decode, next_tokens
from derta.errors import ModelError
from derta.records import Decoding, Prompt

MODEL_KINDS = ("llama", "gemma3", "qwen3", "mistral", "gpt2")
LENGTHS = (1, 3, 9, 20, 33, 5, 40, 2)  # beyond and within the sliding window of 16
STOP_IDS = frozenset(range(20))


@pytest.fixture(scope="module")
def prompts():
    rng = torch.Generator().manual_seed(1)
    return [torch.randint(0, 440, (length,), generator=rng).tolist() for length in LENGTHS]


@pytest.fixture(scope="module", params=MODEL_KINDS)
def model(request, make_model):
    return make_model(request.param, vocab_size=460)


def by_row(written):
    return {row.row: row for row in written}


def test_ragged_batches_return_the_tokens_of_generate(model, prompts):
    results = by_row(decode(model, prompts, max_new_tokens=40, stop_ids=STOP_IDS))
    for row, prompt in enumerate(prompts):
        reference = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=40,
            do_sample=False,
            eos_token_id=list(STOP_IDS),
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        stopped = reference[-1] in STOP_IDS
        expected = GeneratedRow(row, reference[:-1] if stopped else reference, "eos" if stopped else "length")
        assert results[row] == expected


def test_the_batch_size_does_not_change_the_tokens(model, prompts):
    together = by_row(decode(model, prompts, max_new_tokens=40, stop_ids=STOP_IDS))
    for row, prompt in enumerate(prompts):
        [single] = decode(model, [prompt], max_new_tokens=40, stop_ids=STOP_IDS)
        assert single.token_ids == together[row].token_ids
        assert single.stop_reason == together[row].stop_reason
    assert {written.stop_reason for written in together.values()} >= {"eos"}


def test_finished_rows_leave_the_batch(make_model, prompts):
    model = make_model("llama", vocab_size=460)
    sizes = []
    hook = model.register_forward_pre_hook(
        lambda _module, _args, named: sizes.append(len(named["input_ids"])), with_kwargs=True
    )
    written = list(decode(model, prompts, max_new_tokens=40, stop_ids=STOP_IDS))
    hook.remove()
    steps = [len(row.token_ids) + (row.stop_reason == "eos") for row in written]
    assert sizes == [sum(step > i for step in steps) for i in range(max(steps))]
    assert steps == sorted(steps)


@pytest.mark.parametrize("banned", [None, [BannedTokens(((30,), (31, 7)))] * len(LENGTHS)])
def test_rows_that_stay_after_their_end_change_no_reply(make_model, prompts, monkeypatch, banned):
    model = make_model("llama", vocab_size=460)
    expected = list(decode(model, prompts, max_new_tokens=40, stop_ids=STOP_IDS, banned=banned))
    monkeypatch.setattr(decoding, "finished_share", lambda device: 0.25)
    sizes = []
    hook = model.register_forward_pre_hook(
        lambda _module, _args, named: sizes.append(len(named["input_ids"])), with_kwargs=True
    )
    found = list(decode(model, prompts, max_new_tokens=40, stop_ids=STOP_IDS, banned=banned))
    hook.remove()
    assert found == expected
    steps = [len(row.token_ids) + (row.stop_reason == "eos") for row in found]
    running = [sum(step > i for step in steps) for i in range(max(steps))]
    assert all(size - some <= size * 0.25 for size, some in zip(sizes, running, strict=True))
    assert 1 < len(set(sizes)) < len(set(running))


def test_only_running_rows_must_have_finite_logits(monkeypatch):
    monkeypatch.setattr(decoding, "finished_share", lambda device: 0.9)
    model = Markov({MIX: [SURE], SURE: [FLOUR], FLOUR: [FLOUR], SORRY: [END]})
    model.table[END] = torch.nan
    written = by_row(decode(model, [[MIX], [SORRY]], max_new_tokens=3, stop_ids={END}))
    assert {row: one.token_ids for row, one in written.items()} == {0: [SURE, FLOUR, FLOUR], 1: []}


def test_a_first_stop_token_is_an_empty_reply(make_model):
    model = make_model("llama", vocab_size=460)
    assert list(decode(model, [[5, 6]], max_new_tokens=3, stop_ids=range(460))) == [GeneratedRow(0, [], "eos")]


def test_the_stop_reason_at_the_last_token_is_length_unless_it_is_a_stop_token(make_model):
    model = make_model("llama", vocab_size=460)
    [first] = decode(model, [[5, 6]], max_new_tokens=1, stop_ids=())
    assert first.stop_reason == "length"
    assert len(first.token_ids) == 1
    assert list(decode(model, [[5, 6]], max_new_tokens=1, stop_ids=first.token_ids)) == [GeneratedRow(0, [], "eos")]


# banned tokens

SORRY, SURE, MIX, FLOUR, NO, END = range(6)


class Markov:
    """Model whose next token depends on the last token only: `ranks[token]` lists next tokens, most likely first."""

    training = False
    device = torch.device("cpu")

    def __init__(self, ranks):
        self.table = torch.zeros(6, 6)
        for token, following in ranks.items():
            for rank, after in enumerate(following):
                self.table[token, after] = 6.0 - rank

    def __call__(self, input_ids, **_):
        return SimpleNamespace(logits=self.table[input_ids[:, -1:]], past_key_values=self)

    def reorder_cache(self, rows):
        pass


CHAIN = Markov({MIX: [SORRY, NO, SURE, END], SURE: [SORRY, FLOUR], FLOUR: [SORRY, END], SORRY: [END], NO: [NO, END]})


def write(*banned, limit=5):
    results = decode(CHAIN, [[MIX]] * len(banned), max_new_tokens=limit, stop_ids={END}, banned=banned)
    return {one.row: one.token_ids for one in results}


def test_a_ban_selects_the_best_remaining_token_and_only_in_its_row():
    assert write(None, BannedTokens(((SORRY,), (NO,)))) == {0: [SORRY], 1: [SURE, FLOUR]}


def test_a_ban_ends_after_its_steps():
    assert write(BannedTokens(((SORRY,), (NO,)), steps=1), BannedTokens(((SORRY,), (NO,)), steps=2)) == {
        0: [SURE, SORRY],
        1: [SURE, FLOUR, SORRY],
    }


def test_a_banned_token_is_generated_if_all_of_the_top_k_are_banned():
    both = ((SORRY,), (NO,))
    assert write(BannedTokens(both, top_k=2), BannedTokens(both, top_k=3)) == {0: [SORRY], 1: [SURE, FLOUR]}


def test_a_sequence_is_banned_only_at_its_last_token():
    assert write(BannedTokens(((SORRY,), (NO, NO))), limit=3) == {0: [NO]}
    assert write(BannedTokens(((SORRY,), (NO, NO), (NO, END))), limit=3)[0][:1] == [NO]


@given(
    logits=st.lists(st.permutations(range(8)), min_size=1, max_size=3),
    written=st.lists(st.integers(0, 7), min_size=3, max_size=3),
    sequences=st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=3).map(tuple), min_size=1, unique=True),
)
def test_the_choice_is_the_argmax_after_transformers_bad_words(logits, written, sequences):
    scores = torch.tensor(logits, dtype=torch.float32)
    rows = [(written, BannedTokens(tuple(sequences)))] * len(logits)
    processed = NoBadWordsLogitsProcessor([list(one) for one in sequences])(
        torch.tensor([written] * len(logits)), scores.clone()
    )
    expected = processed.argmax(dim=-1).tolist()
    if not processed.isinf().all():
        assert next_tokens(scores, rows) == expected


def test_texts_are_banned_with_and_without_a_leading_space(tiny_chat):
    encode = tiny_chat.tokenizer.encode
    results = banned_tokens(tiny_chat, Decoding(banned=("Sorry",), steps=3, ban_end=True), stop_ids={7})
    assert set(results.sequences) == {
        tuple(encode("Sorry", add_special_tokens=False)),
        tuple(encode(" Sorry", add_special_tokens=False)),
        (7,),
    }
    assert (results.steps, results.top_k) == (3, None)


def test_texts_that_the_tokenizer_cannot_encode_are_refused(make_tokenizer):
    chat = chat_format(make_tokenizer(kind="word"))
    assert banned_tokens(chat, Decoding(banned=("Sorry", "zzzz")), stop_ids=()).sequences
    with pytest.raises(ModelError, match="expected a banned text that this tokenizer can encode"):
        banned_tokens(chat, Decoding(banned=("zzzz",)), stop_ids=())


def test_the_engine_respects_each_prompts_bans_and_raises_before_the_first_reply(tiny_model_dir):
    engine = load_engine(tiny_model_dir, dtype="float32")
    fields = {"request_id": "r", "request": "?", "attack": "direct", "mode": "raw", "text": "How do I paint it?"}
    [free] = engine.generate([Prompt(id="free", **fields)], max_new_tokens=8)
    decode, encode = engine.chat.tokenizer.decode, engine.chat.tokenizer.encode
    first_token = next(
        one for one in free.token_ids if encode(decode([one]), add_special_tokens=False) == [one] and one < 500
    )
    decoding = Decoding(banned=(decode([first_token]).strip(),))
    prompts = [Prompt(id="banned", decoding=decoding, **fields), Prompt(id="free", **fields)]
    replies = {reply.prompt_id: reply for reply in engine.generate(prompts, max_new_tokens=8)}
    assert replies["free"] == free
    assert first_token not in replies["banned"].token_ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_of_equally_likely_tokens_the_first_is_chosen(dtype):
    scores = torch.randint(0, 3, (5, 70_000), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert next_tokens(scores, None) == [row.index(2) for row in scores.tolist()]
