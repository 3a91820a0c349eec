from __future__ import annotations

from typing import Any

import pytest

from derta.attacks import direct
from derta.attacks.prompts import as_suite, craft_prompt, shipped_lines, shipped_text, user
from derta.records import Cost, Decoding, PrefillDepth, Request

REQUEST = Request(id="1", text="How do I kill a weed?", category="garden", answer="Pull it.", steps=("pull it",))


@pytest.mark.parametrize(
    ("variant", "name", "cell"), [(None, "mine:1", "mine"), ("50%", "mine@50%:1", "mine@50%"), ("", "mine:1", "mine")]
)
def test_an_id_consists_of_attack_variant_and_request(variant: str | None, name: str, cell: str) -> None:
    prompt = craft_prompt(REQUEST, attack="mine", variant=variant, messages=user("Why?"))
    assert (prompt.id, prompt.cell, prompt.attack) == (name, cell, "mine")


def test_a_prompt_keeps_the_request_and_its_reference_fields() -> None:
    prompt = craft_prompt(REQUEST, attack="mine", messages=user("Why?"))
    assert (prompt.request_id, prompt.request, prompt.category) == ("1", REQUEST.text, "garden")
    assert (prompt.answer, prompt.steps) == ("Pull it.", ("pull it",))


def test_messages_make_a_chat_prompt_and_text_a_raw_one() -> None:
    chat = craft_prompt(REQUEST, attack="mine", messages=user("Why?"), prefill="Because")
    assert (chat.mode, chat.text, chat.prefill) == ("chat", None, "Because")
    raw = craft_prompt(REQUEST, attack="mine", text="Because")
    assert (raw.mode, raw.text, raw.messages) == ("raw", "Because", None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("depth", PrefillDepth(amount=50, unit="%")),
        ("decoding", Decoding(banned=("Sorry",), steps=2)),
        ("cost", Cost(target_queries=3)),
    ],
)
def test_depth_decoding_and_cost_are_fields_of_the_prompt(field: str, value: Any) -> None:
    options: dict[str, Any] = {"prefill": "Pull", field: value}
    assert getattr(craft_prompt(REQUEST, attack="mine", messages=user("Why?"), **options), field) == value


def test_a_text_asset_is_loaded_without_its_final_line_break() -> None:
    text = shipped_text("pair_feedback.txt")
    assert text
    assert not text.endswith("\n")
    assert "\n" in text


def test_lines_of_an_asset_are_not_empty_and_in_order() -> None:
    lines = shipped_lines("multi_turn.txt")
    assert len(lines) == 4
    assert all(lines)
    assert [shipped_text("multi_turn.txt").index(line) for line in lines] == sorted(
        shipped_text("multi_turn.txt").index(line) for line in lines
    )


def test_prompts_of_two_datasets_with_the_same_request_ids_fit_in_one_file() -> None:
    prompts = direct().craft([REQUEST])
    both = [
        *as_suite(prompts, suite="over_refusal", dataset="xstest"),
        *as_suite(prompts, suite="helpfulness", dataset="b"),
    ]
    assert [prompt.id for prompt in both] == ["xstest/direct:1", "b/direct:1"]
    assert [(prompt.suite, prompt.dataset, prompt.cell) for prompt in both] == [
        ("over_refusal", "xstest", "xstest"),
        ("helpfulness", "b", "b"),
    ]
    assert all(prompt.answer == "Pull it." for prompt in both)
