from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import NoBadWordsLogitsProcessor

from derta.chat import chat_format
from derta.engines import load_engine
from derta.engines.decoding import BannedTokens, GeneratedRow, banned_tokens, greedy, next_tokens
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


def test_ragged_batches_give_the_tokens_of_generate(model, prompts):
    found = by_row(greedy(model, prompts, max_new_tokens=40, stop_ids=STOP_IDS))
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
        assert found[row] == expected


def test_one_row_at_a_time_gives_the_same_as_eight(model, prompts):
    together = by_row(greedy(model, prompts, max_new_tokens=40, stop_ids=STOP_IDS))
    for row, prompt in enumerate(prompts):
        [alone] = greedy(model, [prompt], max_new_tokens=40, stop_ids=STOP_IDS)
        assert alone.token_ids == together[row].token_ids
        assert alone.stop_reason == together[row].stop_reason
    assert {written.stop_reason for written in together.values()} >= {"eos"}


def test_finished_rows_leave_the_batch(make_model, prompts):
    model = make_model("llama", vocab_size=460)
    sizes = []
    hook = model.register_forward_pre_hook(
        lambda _module, _args, named: sizes.append(len(named["input_ids"])), with_kwargs=True
    )
    written = list(greedy(model, prompts, max_new_tokens=40, stop_ids=STOP_IDS))
    hook.remove()
    steps = [len(row.token_ids) + (row.stop_reason == "eos") for row in written]
    assert sizes == [sum(step > i for step in steps) for i in range(max(steps))]
    assert steps == sorted(steps)


def test_a_stop_token_at_once_is_an_empty_reply(make_model):
    model = make_model("llama", vocab_size=460)
    assert list(greedy(model, [[5, 6]], max_new_tokens=3, stop_ids=range(460))) == [GeneratedRow(0, [], "eos")]


def test_the_last_token_allowed_is_length_unless_it_stops(make_model):
    model = make_model("llama", vocab_size=460)
    [first] = greedy(model, [[5, 6]], max_new_tokens=1, stop_ids=())
    assert first.stop_reason == "length"
    assert len(first.token_ids) == 1
    assert list(greedy(model, [[5, 6]], max_new_tokens=1, stop_ids=first.token_ids)) == [GeneratedRow(0, [], "eos")]


# banned tokens

SORRY, SURE, MIX, FLOUR, NO, END = range(6)


class Markov:
    """A model whose next token hangs on the last alone: `ranks[token]` lists what may follow, likeliest first."""

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
    found = greedy(CHAIN, [[MIX]] * len(banned), max_new_tokens=limit, stop_ids={END}, banned=banned)
    return {one.row: one.token_ids for one in found}


def test_a_ban_takes_the_best_token_that_is_left_and_only_in_its_own_row():
    assert write(None, BannedTokens(((SORRY,), (NO,)))) == {0: [SORRY], 1: [SURE, FLOUR]}


def test_a_ban_ends_after_its_steps():
    assert write(BannedTokens(((SORRY,), (NO,)), steps=1), BannedTokens(((SORRY,), (NO,)), steps=2)) == {
        0: [SURE, SORRY],
        1: [SURE, FLOUR, SORRY],
    }


def test_among_the_top_k_the_model_has_its_way_where_all_are_banned():
    both = ((SORRY,), (NO,))
    assert write(BannedTokens(both, top_k=2), BannedTokens(both, top_k=3)) == {0: [SORRY], 1: [SURE, FLOUR]}


def test_a_longer_text_is_banned_only_where_it_would_be_completed():
    assert write(BannedTokens(((SORRY,), (NO, NO))), limit=3) == {0: [NO]}
    assert write(BannedTokens(((SORRY,), (NO, NO), (NO, END))), limit=3)[0][:1] == [NO]


@given(
    logits=st.lists(st.permutations(range(8)), min_size=1, max_size=3),
    written=st.lists(st.integers(0, 7), min_size=3, max_size=3),
    sequences=st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=3).map(tuple), min_size=1, unique=True),
)
def test_the_choice_is_the_arg_max_that_transformers_bad_words_leave(logits, written, sequences):
    scores = torch.tensor(logits, dtype=torch.float32)
    rows = [(written, BannedTokens(tuple(sequences)))] * len(logits)
    processed = NoBadWordsLogitsProcessor([list(one) for one in sequences])(
        torch.tensor([written] * len(logits)), scores.clone()
    )
    expected = processed.argmax(dim=-1).tolist()
    if not processed.isinf().all():
        assert next_tokens(scores, rows) == expected


def test_texts_are_banned_bare_and_after_a_blank(tiny_chat):
    encode = tiny_chat.tokenizer.encode
    found = banned_tokens(tiny_chat, Decoding(banned=("Sorry",), steps=3, ban_end=True), stop_ids={7})
    assert set(found.sequences) == {
        tuple(encode("Sorry", add_special_tokens=False)),
        tuple(encode(" Sorry", add_special_tokens=False)),
        (7,),
    }
    assert (found.steps, found.top_k) == (3, None)


def test_texts_that_no_token_can_write_are_refused(make_tokenizer):
    chat = chat_format(make_tokenizer(kind="word"))
    assert banned_tokens(chat, Decoding(banned=("Sorry", "zzzz")), stop_ids=()).sequences
    with pytest.raises(ModelError, match="expected a banned text that this tokenizer can encode"):
        banned_tokens(chat, Decoding(banned=("zzzz",)), stop_ids=())


def test_the_engine_respects_each_prompt_and_refuses_before_it_writes(tiny_model_dir):
    engine = load_engine(tiny_model_dir, dtype="float32")
    ask = {"request_id": "r", "request": "?", "attack": "direct", "mode": "raw", "text": "How do I paint it?"}
    [free] = engine.generate([Prompt(id="free", **ask)], max_new_tokens=8)
    decode, encode = engine.chat.tokenizer.decode, engine.chat.tokenizer.encode
    said = next(one for one in free.token_ids if encode(decode([one]), add_special_tokens=False) == [one] and one < 500)
    bent = Decoding(banned=(decode([said]).strip(),))
    prompts = [Prompt(id="banned", decoding=bent, **ask), Prompt(id="free", **ask)]
    replies = {reply.prompt_id: reply for reply in engine.generate(prompts, max_new_tokens=8)}
    assert replies["free"] == free
    assert said not in replies["banned"].token_ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_of_equally_likely_tokens_the_first_is_chosen(dtype):
    scores = torch.randint(0, 3, (5, 70_000), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert next_tokens(scores, None) == [row.index(2) for row in scores.tolist()]
