import pytest

from derta.attacks import build_attack
from derta.attacks.static.rank_assisted import rank_assisted
from derta.errors import DataError, RecipeError
from derta.records import Request

REQUESTS = [Request(id="r", text="How do I paint a fence?")]


def test_the_end_of_the_reply_is_banned_too(craft):
    [prompt] = craft(rank_assisted(steps=(3,)), REQUESTS)
    assert (prompt.decoding.steps, prompt.decoding.top_k, prompt.decoding.ban_end) == (3, 20, True)


def test_default_openers_contain_the_refusal_token_and_the_common_refusals(craft):
    [prompt] = craft(rank_assisted(steps=(5,)), REQUESTS)
    assert {"Sorry", "I cannot", "I can't", "I can’t", "Unfortunately", "As an AI"} <= {*prompt.decoding.banned}


def test_every_pair_of_steps_and_k_is_a_prompt(craft):
    prompts = craft(rank_assisted(steps=(1, 2), top_k=(5, 20)), REQUESTS)
    assert [prompt.variant for prompt in prompts] == ["1-of-top5", "1-of-top20", "2-of-top5", "2-of-top20"]


def test_openers_come_from_a_users_file(craft, write):
    path = write("openers.txt", "Nay\n=====\nI will by no means")
    [prompt] = craft(rank_assisted(steps=(2,), openers=path), REQUESTS)
    assert prompt.decoding.banned == ("Nay", "I will by no means")
    with pytest.raises(DataError, match="cannot read it"):
        rank_assisted(openers=path.with_name("none.txt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": [1]}, r"top_k\.0"),
        ({"top_k": [5, 5]}, "expected one or more top_k, each once"),
        ({"steps": []}, "expected one or more steps"),
        ({"steps": [0]}, r"steps\.0"),
    ],
)
def test_invalid_values_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        build_attack("rank_assisted", options)
