from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from derta.attacks.static.self_cipher import read_demonstrations, self_cipher
from derta.errors import DataError
from derta.records import Request

Write = Callable[[str, str], Path]
FIVE = [f"Boil {{vegetable}} {n} with $salt." for n in range(5)]


def test_demonstrations_are_in_order_inside_the_role_play(write: Write, craft: Any) -> None:
    attack = self_cipher(demonstrations=write("d.json", json.dumps([*FIVE, "a sixth"])))
    [prompt] = craft(attack, [Request(id="r", text="How is soup made?")])
    system, request = prompt.messages
    assert (system.role, request.role, request.content) == ("system", "user", "How is soup made?")
    places = [system.content.index(f"Example {n}\n{text}") for n, text in enumerate(FIVE, start=1)]
    assert places == sorted(places)
    assert "a sixth" not in system.content
    assert "@EXAMPLES@" not in system.content


def test_without_a_system_role_the_prompt_is_one_user_message(write: Write, craft: Any) -> None:
    attack = self_cipher(demonstrations=write("d.json", json.dumps(FIVE)), count=2, role="user")
    [prompt] = craft(attack, [Request(id="r", text="How is soup made?")])
    [message] = prompt.messages
    assert message.role == "user"
    assert message.content.endswith("\n\nHow is soup made?")


def test_pairs_become_a_short_dialogue(write: Write) -> None:
    path = write("d.jsonl", '{"user": "Soup?", "assistant": "Boil it."}\n')
    assert read_demonstrations(path, count=1) == ["User: Soup?\nExpert: Boil it."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["one"]', "at least 2 demonstrations, got 1"),
        ('["one", 2]', "demonstration 2: expected text"),
        ('["one", {"user": "Soup?"}]', "demonstration 2: expected text, or text under assistant"),
        ('["one", {"user": "", "assistant": "x"}]', "demonstration 2: expected text, or text under user"),
    ],
)
def test_the_error_for_a_malformed_demonstration_names_its_number(text: str, message: str, write: Write) -> None:
    with pytest.raises(DataError, match=message):
        read_demonstrations(write("d.json", text), count=2)
