from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.attacks.static.prefill import cut, depth_name, parse_depth, parse_depths, prefill
from derta.errors import DataError, RecipeError
from derta.records import PrefillDepth, Request

TEN = "one two three four five six seven eight nine ten."


@pytest.mark.parametrize(
    ("depth", "start"),
    [
        ("0%", ""),
        ("1%", "one"),  # 0.1 of a word, rounded up
        ("25%", "one two three"),  # 2.5 words, rounded up
        ("50%", "one two three four five"),
        ("100%", TEN),
    ],
)
def test_a_percentage_is_of_words_rounded_up(depth: str, start: str) -> None:
    assert cut(f"\n {TEN} ", parse_depth(depth)) == start


def test_a_share_of_whole_words_is_not_rounded_up_by_binary_fractions() -> None:
    words = " ".join(["word"] * 100)
    assert len(cut(words, parse_depth("7%")).split()) == 7
    assert [depth_name(parse_depth(text)) for text in ("7.0%", "12.5%", "1234567t")] == ["7%", "12.5%", "1234567t"]


@given(answer=st.text(), percent=st.integers(0, 100))
def test_a_cut_is_a_start_that_ends_where_a_word_ends(answer: str, percent: int) -> None:
    start = cut(answer, parse_depth(f"{percent}%"))
    rest = answer.strip()[len(start) :]
    assert answer.strip().startswith(start)
    assert start == start.strip()
    assert not start or not rest or rest[0].isspace()
    assert bool(start) == bool(percent and answer.strip())


@given(answer=st.text(), percents=st.lists(st.integers(0, 100), min_size=2, max_size=2))
def test_a_deeper_cut_extends_a_shallower_one(answer: str, percents: list[int]) -> None:
    less, more = (cut(answer, parse_depth(f"{percent}%")) for percent in sorted(percents))
    assert more.startswith(less)


def test_the_whole_sweep_of_the_paper_is_the_default(craft: Any) -> None:
    prompts = craft(prefill(), [Request(id="r", text="How?", harmful=TEN)])
    assert [prompt.variant for prompt in prompts] == ["0%", "1%", "5%", "10%", "25%", "50%", "100%"]
    assert prompts[0].prefill is None
    assert prompts[-1].prefill == TEN
    assert prompts[-1].cell == "prefill@100%"
    assert prompts[-1].depth == PrefillDepth(amount=100, unit="%")


def test_tokens_are_counted_by_the_tokenizer_that_the_option_names(
    craft: Any, make_tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(kind="word")
    tokenizer.save_pretrained(tmp_path)
    answer = "Mix flour, water and salt."  # words and signs are tokens: Mix | flour | , | water | and | salt | .
    attack = prefill(depths=("0t", "3t", "4t", "99t"), tokenizer=tmp_path)
    prompts = craft(attack, [Request(id="r", text="How?", harmful=answer)])
    assert [prompt.prefill for prompt in prompts] == [None, "Mix flour,", "Mix flour, water", answer]
    assert [prompt.variant for prompt in prompts] == ["0t", "3t", "4t", "99t"]
    assert [prompt.depth for prompt in prompts] == [PrefillDepth(amount=n, unit="tokens") for n in (0, 3, 4, 99)]


@given(answer=st.text(min_size=1, max_size=30).filter(str.strip), count=st.integers(0, 40))
def test_a_cut_in_tokens_never_splits_a_character(answer: str, count: int, make_tokenizer: Any) -> None:
    backend = make_tokenizer(kind="bpe").backend_tokenizer

    def token_ends(text: str) -> list[int]:
        return [end for _, end in backend.encode(text, add_special_tokens=False).offsets]

    assert answer.strip().startswith(cut(answer, parse_depth(f"{count}t"), token_ends=token_ends))


def test_tokens_without_a_tokenizer_are_refused_when_the_attack_is_built() -> None:
    with pytest.raises(RecipeError, match="'5t' counts tokens, but there is no tokenizer"):
        prefill(depths=("50%", "5t"))


@pytest.mark.parametrize("depth", ["50", "101%", "1.5t", "-1%", "", "t", "٣%", "5 tokens"])
def test_a_depth_in_another_format_is_refused(depth: str) -> None:
    with pytest.raises(RecipeError, match="expected depths such as"):
        parse_depth(depth)


@pytest.mark.parametrize("depths", [[], ["50%", "50.0%"]])
def test_depths_come_once_each(depths: list[str]) -> None:
    with pytest.raises(RecipeError, match="each once"):
        parse_depths(depths)


def test_requests_without_a_harmful_answer_are_counted_and_refused() -> None:
    requests = [
        Request(id="a", text="How?", harmful="Mix."),
        Request(id="b", text="How?"),
        Request(id="c", text="?", harmful=" "),
    ]
    with pytest.raises(DataError, match="2 of 3 have none \\(first: 'b'\\)"):
        prefill().craft(requests)


@pytest.mark.parametrize("text", [None, "{}", "not json"])
def test_a_tokenizer_that_cannot_be_read_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"expected a tokenizer\.json"):
        prefill(depths=("5t",), tokenizer=tmp_path)
