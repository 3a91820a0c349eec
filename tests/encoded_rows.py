"""Rows from ids alone: prompts are below 1000, safe text 1000 to 1999, harmful text from 5000, refusals 1 to 4.

Harmful text of an earlier turn is from 5500.
"""

from hypothesis import strategies as st

from derta.config import RowConfig
from derta.data.encoding import EncodedExample
from derta.data.rows import IGNORE, draw_row
from derta.data.triple_encoding import EncodedTriple
from method_rows import instances_of

BARE, SPACED, BARE_2, SPACED_2 = 1, 2, 3, 4
CLOSING = (9, 8)
HARMFUL = range(5000, 6000)


def triple_of(
    *,
    name="t",
    num_prompt=20,
    num_safe=6,
    num_harmful=12,
    num_words=4,
    bare_positions=(),
    trailing_blank=False,
    num_earlier=0,
):
    bare = frozenset(bare_positions)
    allowed = [(BARE, BARE_2) if t in bare or t == 0 else (SPACED, SPACED_2) for t in range(num_harmful)]
    start = tuple(range(10, 10 + num_prompt))
    earlier = tuple(HARMFUL[500 : 500 + num_earlier])
    prompt_ids = (*start, *earlier, *start) if earlier else start
    harmful_prompt_ids = (*prompt_ids, 999) if trailing_blank else prompt_ids
    return EncodedTriple(
        id=name,
        prompt_ids=prompt_ids,
        harmful_prompt_ids=harmful_prompt_ids,
        earlier_refusals=tuple((SPACED, SPACED_2) if token in earlier else () for token in harmful_prompt_ids)
        if earlier
        else (),
        safe_ids=(*range(1000, 1000 + num_safe), *CLOSING),
        safe_spaced_ids=(*range(1100, 1100 + num_safe), *CLOSING),
        safe_bare_ids=(*range(1200, 1200 + num_safe), *CLOSING),
        harmful_ids=tuple(HARMFUL[:num_harmful]),
        closing_ids=CLOSING,
        refusal_ids=(*allowed, (BARE, BARE_2)),
        bare_positions=bare,
        word_cuts=tuple(num_harmful * n // num_words for n in range(num_words + 1)),
    )


def example_of(*, name="e", num_prompt=20, num_response=6):
    return EncodedExample(name, tuple(range(10, 10 + num_prompt)), (*range(2000, 2000 + num_response), *CLOSING))


triples = st.builds(
    triple_of,
    num_prompt=st.integers(1, 90),
    num_safe=st.integers(1, 90),
    num_harmful=st.integers(1, 90),
    bare_positions=st.sets(st.integers(1, 90)),
    trailing_blank=st.booleans(),
    num_earlier=st.integers(0, 40),
)
examples = st.builds(example_of, num_prompt=st.integers(1, 90), num_response=st.integers(1, 90))
row_settings = st.builds(
    RowConfig,
    max_length=st.integers(32, 120),
    prefix_share=st.floats(0, 1),
    sorry_dropout=st.floats(0, 0.99),
    reference=st.booleans(),
)


def rows_of(method, *, triples, examples=(), settings, seed=0, epoch=0):
    found = instances_of(method, triples=triples, examples=examples)
    return [draw_row(one, config=settings, seed=seed, epoch=epoch) for one in found]


def learned(row):
    return [label for label in row.labels if label != IGNORE]


def decoded_k(row):
    """How many tokens of the harmful response a safe row reads."""
    return sum(token in HARMFUL[:500] for token in row.input_ids)
