from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from derta.config import EngineConfig, SafeSection
from derta.errors import DataError
from derta.pipeline.triples.asking import Models
from derta.pipeline.triples.safe import SafeResponses, make_safe, policy_place, read_templates, safe_prompts
from derta.records import Message, Request
from scripted_writers import Scripts

REQUESTS = [Request(id=str(number), text=f"How do I paint fence {number}?") for number in range(40)]
CONFIG = EngineConfig(model="refuser", engine="scripted")
NO_SYSTEM = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def section(**values: Any) -> SafeSection:
    return SafeSection(model="refuser", engine="scripted", policy_in="system", **values)


def made(tmp_path: Path, safe: SafeSection, requests: Sequence[Request] = REQUESTS[:1], each: int = 1) -> SafeResponses:
    counts = dict.fromkeys((one.id for one in requests), each)
    return make_safe(requests, safe, counts=counts, refusal_words=("Sorry",), out=tmp_path, models=Models())


def test_templates_vary_and_depend_on_the_request_only(tmp_path: Path) -> None:
    safe = made(tmp_path, SafeSection(), REQUESTS).kept
    texts = [one.text for responses in safe.values() for one in responses]
    assert len(set(texts)) > 35
    assert all(text.startswith("Sorry, ") for text in texts)
    assert made(tmp_path, SafeSection(), REQUESTS[5:6]).kept["5"] == safe["5"]


def test_several_responses_to_one_request_differ(tmp_path: Path) -> None:
    responses = made(tmp_path, SafeSection(), each=4).kept["0"]
    assert len({one.text for one in responses}) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shapes: [Never.]", "open with a refusal word"),
        ("shapes: ['{no}']", "expected shapes of the parts"),
        ("shapes: ['Sorry {']", "expected YAML with `shapes`"),
        ("shapes: []", "not templates"),
        ("parts: {a: [Sorry.]}", "not templates"),
        ("{{", "expected YAML with `shapes`"),
    ],
)
def test_templates_that_cannot_serve_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_templates(str(path), words=("Sorry",), normalize=True)


def test_the_policy_precedes_the_system_message_of_a_request() -> None:
    system = Message(role="system", content="You sell paint.")
    request = REQUESTS[0].model_copy(update={"messages": (system,)})
    [prompt] = safe_prompts([request], section(policy="No fences."), config=CONFIG, word="Sorry")
    assert prompt.messages is not None
    assert [message.role for message in prompt.messages] == ["system", "user"]
    assert prompt.messages[0].content.endswith("No fences.\n\nYou sell paint.")
    assert 'with the word "Sorry"' in prompt.messages[0].content


@pytest.mark.parametrize(("template", "place"), [(None, "system"), (NO_SYSTEM, "user")])
def test_the_policy_is_in_the_user_message_where_the_template_takes_no_system_message(
    make_tokenizer: Any, tmp_path: Path, template: str | None, place: str
) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template or tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    safe = SafeSection(model=str(tmp_path / "model"), policy="No fences.")
    assert safe.engine_config is not None
    assert policy_place(safe, safe.engine_config) == place
    [prompt] = safe_prompts(REQUESTS[:1], safe, config=safe.engine_config, word="Sorry")
    assert prompt.messages is not None
    assert [message.role for message in prompt.messages] == (["system", "user"] if place == "system" else ["user"])
    assert any("No fences." in message.content for message in prompt.messages)


def test_a_conversation_that_the_chat_template_refuses_is_dropped_and_counted(
    make_tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = NO_SYSTEM
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    request = REQUESTS[0].model_copy(update={"messages": (Message(role="system", content="You sell paint."),)})
    safe = SafeSection(model=str(tmp_path / "model"), policy="No fences.")
    responses = made(tmp_path, safe, [request])
    assert [(one.id, one.reason) for one in responses.dropped] == [("safe:0", "refused_by_template")]


@pytest.mark.parametrize(
    ("reply", "kept", "reason"),
    [
        ("I'm sorry, but I can't help with that.", "Sorry, but I can't help with that.", None),
        ("I cannot help with that.", None, "no_refusal_word"),
        ("First wash the fence, then paint it twice.", None, "not_a_refusal_comply"),
        ("", None, "empty"),
    ],
)
def test_a_models_response_must_refuse_and_open_with_a_refusal_word(
    scripts: Scripts, tmp_path: Path, reply: str, kept: str | None, reason: str | None
) -> None:
    scripts["refuser"] = lambda prompt: reply
    responses = made(tmp_path, section())
    assert [one.text for one in responses.kept.get("0", [])] == ([kept] if kept else [])
    assert [one.reason for one in responses.dropped] == ([reason] if reason else [])


def test_a_response_that_refuses_and_then_answers_is_dropped(scripts: Scripts, tmp_path: Path) -> None:
    answer = "First wash the fence, sand it, and let it dry for a day. Then paint it twice with a wide brush. " * 2
    scripts["refuser"] = lambda prompt: f"Sorry, I can't help with that. However, here is how it is done. {answer}"
    assert made(tmp_path, section()).dropped[0].reason == "not_a_refusal_refuse_then_comply"


def test_samples_of_a_model_are_the_different_responses_to_a_request(scripts: Scripts, tmp_path: Path) -> None:
    scripts["refuser"] = lambda prompt: f"Sorry, I can't help with that. Reason {min(len(scripts.asked), 3)}."
    responses = made(tmp_path, section(temperature=1, num_samples=5, responses=2), each=2)
    assert len({one.text for one in responses.kept["0"]}) == 2
    assert [one.reason for one in responses.dropped] == ["beyond_responses"] * 3
