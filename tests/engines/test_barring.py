from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import NoBadWordsLogitsProcessor

from derta.engines import load_engine
from derta.engines.barring import Bar, bar, choose
from derta.engines.greedy import greedy
from derta.errors import ModelError
from derta.records import Decoding, Prompt

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


MODEL = Markov({MIX: [SORRY, NO, SURE, END], SURE: [SORRY, FLOUR], FLOUR: [SORRY, END], SORRY: [END], NO: [NO, END]})


def write(*bars, limit=5):
    found = greedy(MODEL, [[MIX]] * len(bars), max_new_tokens=limit, stop_ids={END}, bars=bars)
    return {one.row: one.token_ids for one in found}


def test_a_ban_takes_the_best_token_that_is_left_and_only_in_its_own_row():
    assert write(None, Bar(((SORRY,), (NO,)))) == {0: [SORRY], 1: [SURE, FLOUR]}


def test_a_ban_ends_after_its_steps():
    assert write(Bar(((SORRY,), (NO,)), steps=1), Bar(((SORRY,), (NO,)), steps=2)) == {
        0: [SURE, SORRY],
        1: [SURE, FLOUR, SORRY],
    }


def test_among_the_top_k_the_model_has_its_way_where_all_are_barred():
    both = ((SORRY,), (NO,))
    assert write(Bar(both, top_k=2), Bar(both, top_k=3)) == {0: [SORRY], 1: [SURE, FLOUR]}


def test_a_longer_text_is_barred_only_where_it_would_be_completed():
    assert write(Bar(((SORRY,), (NO, NO))), limit=3) == {0: [NO]}
    assert write(Bar(((SORRY,), (NO, NO), (NO, END))), limit=3)[0][:1] == [NO]


@given(
    logits=st.lists(st.permutations(range(8)), min_size=1, max_size=3),
    written=st.lists(st.integers(0, 7), min_size=3, max_size=3),
    sequences=st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=3).map(tuple), min_size=1, unique=True),
)
def test_the_choice_is_the_arg_max_that_transformers_bad_words_leave(logits, written, sequences):
    scores = torch.tensor(logits, dtype=torch.float32)
    rows = [(written, Bar(tuple(sequences)))] * len(logits)
    processed = NoBadWordsLogitsProcessor([list(one) for one in sequences])(
        torch.tensor([written] * len(logits)), scores.clone()
    )
    expected = processed.argmax(dim=-1).tolist()
    if not processed.isinf().all():
        assert choose(scores, rows) == expected


def test_texts_are_barred_bare_and_after_a_blank(tiny_chat):
    encode = tiny_chat.tokenizer.encode
    found = bar(tiny_chat, Decoding(banned=("Sorry",), steps=3, ban_end=True), stop_ids={7})
    assert set(found.sequences) == {
        tuple(encode("Sorry", add_special_tokens=False)),
        tuple(encode(" Sorry", add_special_tokens=False)),
        (7,),
    }
    assert (found.steps, found.top_k) == (3, None)


def test_texts_that_no_token_can_write_are_told(make_tokenizer):
    from derta.chat import chat_format

    chat = chat_format(make_tokenizer(kind="word"))
    assert bar(chat, Decoding(banned=("Sorry", "zzzz")), stop_ids=()).sequences
    with pytest.raises(ModelError, match="expected a barred text that this tokenizer can write"):
        bar(chat, Decoding(banned=("zzzz",)), stop_ids=())


def test_the_engine_heeds_each_prompt_and_refuses_before_it_writes(tiny_model_dir):
    engine = load_engine(tiny_model_dir, dtype="float32")
    ask = {"request_id": "r", "request": "?", "attack": "direct", "mode": "raw", "text": "How do I paint it?"}
    [free] = engine.generate([Prompt(id="free", **ask)], max_new_tokens=8)
    decode, encode = engine.chat.tokenizer.decode, engine.chat.tokenizer.encode
    said = next(one for one in free.token_ids if encode(decode([one]), add_special_tokens=False) == [one] and one < 500)
    bent = Decoding(banned=(decode([said]).strip(),))
    prompts = [Prompt(id="barred", decoding=bent, **ask), Prompt(id="free", **ask)]
    replies = {reply.prompt_id: reply for reply in engine.generate(prompts, max_new_tokens=8)}
    assert replies["free"] == free
    assert said not in replies["barred"].token_ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_of_equally_likely_tokens_the_first_is_chosen(dtype):
    scores = torch.randint(0, 3, (5, 70_000), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert choose(scores, None) == [row.index(2) for row in scores.tolist()]
