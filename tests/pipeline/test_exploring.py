"""Continuations for the playground, against the engine and plain forward passes of a tiny model."""

import pytest
import torch
from pydantic import ValidationError

from derta.chat import encode_prompt, refusal_tokens
from derta.engines import load_engine
from derta.errors import ModelError
from derta.pipeline.exploring import ALTERNATIVES, Question, StoppedError, continue_conversation
from derta.records import Message
from tolerances import logit_tolerance

ASKED = (Message(role="user", content="How do I paint a fence?"),)


@pytest.fixture(scope="module")
def engine(make_model_dir):
    return load_engine(make_model_dir(), device="cpu", dtype="float32")


def question(**changes):
    return Question(**({"messages": ASKED, "max_new_tokens": 6} | changes))


@pytest.mark.parametrize("prefill", ["", "Sure, here are the steps.", " "])
def test_the_reply_is_that_of_the_engine_and_the_scores_those_of_a_forward_pass(engine, prefill):
    asked = question(prefill=prefill)
    answer = continue_conversation(engine, asked)
    [reply] = engine.generate([asked.prompt], max_new_tokens=6)
    assert answer.reply == reply.text
    assert answer.stop_reason == reply.stop_reason
    assert len(answer.positions) == answer.prefilled + len(reply.token_ids) + 1
    ids = [*encode_prompt(engine.chat, asked.prompt), *reply.token_ids]
    with torch.no_grad():
        logits = engine.model(torch.tensor([ids])).logits[0, -len(answer.positions) :]
    probabilities, refusal_ids = logits.softmax(dim=-1), refusal_tokens(engine.chat).ids
    tolerance = logit_tolerance(logits)
    assert [one.refusal for one in answer.positions] == pytest.approx(
        probabilities[:, list(refusal_ids)].sum(dim=-1).tolist(), rel=tolerance
    )
    following = ids[len(ids) + 1 - len(answer.positions) :]
    assert [one.probability for one in answer.positions[:-1]] == pytest.approx(
        [probabilities[i, token].item() for i, token in enumerate(following)], rel=tolerance
    )


def test_the_prefill_has_positions_of_its_own_and_its_text(engine):
    answer = continue_conversation(engine, question(prefill="Sure, here"))
    assert answer.prefilled > 0
    assert "".join(one.text for one in answer.positions[: answer.prefilled]) == "Sure, here"
    assert answer.positions[-1].text == ""
    assert answer.positions[-1].probability is None


def test_greedy_tokens_are_the_first_alternative_and_no_prefilled_token_is_called_so_unless_it_is(engine):
    answer = continue_conversation(engine, question(prefill="Sure, here"))
    assert all(one.greedy for one in answer.positions[answer.prefilled :])
    assert not all(one.greedy for one in answer.positions[: answer.prefilled])
    for one in answer.positions[answer.prefilled : -1]:
        assert one.probability == one.alternatives[0].probability
        assert len(one.alternatives) == ALTERNATIVES
        values = [other.probability for other in one.alternatives]
        assert values == sorted(values, reverse=True)


def test_banned_texts_do_not_occur_and_their_replacement_is_no_greedy_token(engine):
    plain = continue_conversation(engine, question())
    first = plain.positions[0].text.strip()
    assert first
    banned = continue_conversation(engine, question(banned=(first,)))
    assert first not in banned.reply
    assert not banned.positions[0].greedy
    assert banned.positions[0].alternatives[0].text == plain.positions[0].text


def test_a_threshold_that_every_position_reaches_forces_a_refusal_token(engine):
    forced = continue_conversation(engine, question(threshold=1e-12))
    assert forced.positions[0].text.strip() == "Sorry"
    assert continue_conversation(engine, question(threshold=1.0)) == continue_conversation(engine, question())


def test_a_stop_token_among_the_alternatives_is_marked(make_model_dir):
    engine = load_engine(make_model_dir(eos_token_id=1), device="cpu", dtype="float32")
    answer = continue_conversation(engine, question(max_new_tokens=40))
    stops = {engine.chat.tokenizer.decode([i]) for i in (1, *engine.chat.stop_ids)}
    listed = [other for one in answer.positions for other in one.alternatives]
    assert all(other.ends == (other.text in stops) for other in listed)


def test_control_characters_are_visible(engine):
    answer = continue_conversation(engine, question(prefill="a\u202eb\x1b[2J"))
    assert "".join(one.visible for one in answer.positions[: answer.prefilled]).count("⟨U+") == 2


def test_a_generation_stops_before_the_next_token_and_leaves_no_hook(engine):
    passes = []
    with pytest.raises(StoppedError):
        continue_conversation(engine, question(), stopped=lambda: passes.append(1) or len(passes) == 3)
    assert len(passes) == 3
    assert not engine.model._forward_pre_hooks
    assert len(continue_conversation(engine, question()).positions) == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages": ()}, "at least 1"),
        ({"messages": (Message(role="assistant", content="Hi"),)}, "a message of the user at the end"),
        ({"messages": (Message(role="user", content=" "),)}, "type a request"),
        ({"threshold": 0}, "greater than 0"),
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
        ({"banned": ("",)}, "banned"),
        ({"model": "x"}, "Extra inputs"),
    ],
)
def test_a_wrong_question_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        question(**changes)


def test_a_conversation_without_room_for_the_reply_is_an_error_of_one_line(engine):
    with pytest.raises(ModelError, match=r"more than the model's 256 positions") as caught:
        continue_conversation(engine, question(max_new_tokens=400))
    assert "\n" not in str(caught.value)
