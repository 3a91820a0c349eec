import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.engines.scripted import ScriptedModel
from derta.errors import ModelError
from derta.records import Prompt


def prompt(name="p", text="?"):
    return Prompt(id=name, request_id="r", request=text, attack="direct", mode="raw", text=text)


def test_replies_are_scripted_by_id_or_by_a_function():
    prompts = [prompt("a", "one"), prompt("b", "two")]
    by_id = ScriptedModel({"a": "ONE", "b": "TWO"})
    by_function = ScriptedModel(lambda prompt: (prompt.text or "").upper())
    assert [reply.text for reply in by_id.generate(prompts, max_new_tokens=5)] == ["ONE", "TWO"]
    assert list(by_function.generate(prompts, max_new_tokens=5)) == list(by_id.generate(prompts, max_new_tokens=5))


def test_a_prompt_without_a_scripted_reply_is_an_error():
    with pytest.raises(ModelError, match="expected a scripted reply to prompt 'c', got none"):
        list(ScriptedModel({}).generate([prompt("c")], max_new_tokens=5))


@given(text=st.text(st.characters(exclude_categories=["Cs"])), limit=st.integers(1, 5))
def test_token_starts_cut_the_reply_into_its_words(text, limit):
    [reply] = ScriptedModel({"p": text}).generate([prompt()], max_new_tokens=limit)
    pieces = [reply.text[i:j] for i, j in zip(reply.token_starts, [*reply.token_starts[1:], None], strict=False)]
    assert [piece.strip() for piece in pieces] == text.split()[:limit]
    assert len(reply.token_ids) == len(pieces)
    assert reply.stop_reason == ("length" if len(text.split()) >= limit else "eos")


def test_likelihoods_and_refusal_probabilities_are_the_scripts():
    model = ScriptedModel(
        {},
        log_prob=lambda prompt, before, word: -float(len((prompt.text or "") + before + word)),
        refusal_prob=lambda _asked, before: 1.0 if "b" in before else 0.0,
    )
    assert model.log_likelihood([prompt()], ["a b c"]) == [[-2.0, -4.0, -6.0]]
    assert model.refusal_probability([prompt()], ["a b c"]) == [[0.0, 0.0, 1.0, 1.0]]
    assert model.refusal_probability([prompt()], [""]) == [[0.0]]


def test_by_default_every_word_is_equally_likely_and_nothing_is_refused():
    model = ScriptedModel({})
    assert model.log_likelihood([prompt()], ["a b"]) == [[-1.0, -1.0]]
    assert model.refusal_probability([prompt()], ["a b"]) == [[0.0, 0.0, 0.0]]
