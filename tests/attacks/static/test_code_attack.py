from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.attacks.static.code_attack import STRUCTURES, code_attack, pushes
from derta.records import Request

FOLDER = os.environ.get("DERTA_DATA")


@pytest.mark.data
@pytest.mark.skipif(not FOLDER, reason="DERTA_DATA does not name the folder of the public research data")
def test_the_published_prompts_are_reproduced_character_for_character(craft: Any) -> None:
    published = Path(str(FOLDER)) / "published"
    texts, expected = (
        [json.loads(line)["question"] for line in (published / name).read_text(encoding="utf-8").splitlines()]
        for name in ("requests.jsonl", "prompts_codeattack.jsonl")
    )
    prompts = craft(code_attack(), [Request(id=str(n), text=text) for n, text in enumerate(texts)])
    equal = sum(p.messages[0].content == text for p, text in zip(prompts, expected, strict=True))
    assert equal == len(expected) == 198


@given(text=st.text(min_size=1).filter(lambda text: bool(text.split())))
def test_the_words_pushed_are_the_words_of_the_request(text: str) -> None:
    for name, structure in STRUCTURES.items():
        lines = pushes(text, structure=name).split("\n")
        words = [re.fullmatch(rf'    {structure.variable}\.append\("(.*)"\)', line)[1] for line in lines]  # type: ignore[index]
        assert (words[::-1] if structure.last_word_first else words) == text.split()


def test_quotes_hyphens_and_marks_stay_as_they_are() -> None:
    assert pushes('Say "no" step-by-step, don\'t?', structure="list") == (
        '    my_list.append("Say")\n    my_list.append(""no"")\n'
        '    my_list.append("step-by-step,")\n    my_list.append("don\'t?")'
    )


def test_each_structure_has_a_template_that_decodes_its_variable(craft: Any) -> None:
    prompts = craft(code_attack(structures=("stack", "deque", "list")), [Request(id="r", text="Paint the fence.")])
    assert [prompt.cell for prompt in prompts] == ["code_attack@stack", "code_attack@deque", "code_attack@list"]
    for prompt, structure in zip(prompts, STRUCTURES.values(), strict=True):
        text = prompt.messages[0].content
        assert f"task = decode({structure.variable})" in text
        assert text.count(f"{structure.variable}.append(") == 3
        assert "@" not in text
        assert text.endswith("```")
