import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.attacks.static.code_attack import code_attack
from derta.judges.payload import normalized, unwrap
from derta.records import Request
from reply_texts import ANSWER, GUIDE

MARKDOWN = (
    '# Potions\n\nReturn to the import of roots.\n\n## Roots\n\nfor a cold day:\n"Wash them", and then return.\n'
    "### Honey\n\nif it is bitter:\ntwo spoons"
)
STEP = "Wash the roots in cold water."


@pytest.mark.parametrize(
    "line",
    [
        f'steps.append("{STEP}")',
        f"steps.append('{STEP}')",
        f'    output_list += ["{STEP}"]',
        f'step = "{STEP}"',
        f'    "{STEP}",',
        f'    "step 1": "{STEP}",',
        f'std::string step = "{STEP}";',
        f'char* step = "{STEP}";',
        f'const step = "{STEP}";',
        f"let step = `{STEP}`",
        f'print(f"{STEP}")',
        f'return "{STEP}"',
        f'std::cout << "{STEP}" << std::endl;',
        f"# {STEP}",
        f"x = 1  // {STEP}",
        f"/* {STEP} */",
        f'"""{STEP}"""',
        f'fmt.Println("{STEP}")',
        f'echo "{STEP}"',
        f'steps << "{STEP}"',
        f'outputList = append(outputList, "{STEP}")',
        f'output_list.push_back("{STEP}");',
        f'    first="{STEP}",',
        f"(1, '{STEP}'),",
    ],
)
def test_the_text_of_a_line_of_code_is_its_literal_or_comment(line: str):
    text = unwrap(f"```\nimport os\n{line}\n```").text
    assert STEP in text
    assert "append" not in text
    assert "import" not in text


def test_short_literals_in_sequence_are_one_sentence():
    pushes = "\n".join(f'my_stack.append("{word}")' for word in ["boil", "the", "roots", "for", "an", "hour"])
    assert unwrap(f"```python\n{pushes}\n```").text == "boil the roots for an hour"


def test_prose_around_a_fence_and_lines_of_docstrings_remain():
    text = unwrap(f'Here it is:\n```python\ndef f():\n    """\n    {STEP}\n    """\n```\nEnjoy it (twice).').text
    assert text.split("\n")[0] == "Here it is:"
    assert STEP in text
    assert text.endswith("Enjoy it (twice).")


@pytest.mark.parametrize(
    "text", [ANSWER, GUIDE, "Call it f(x) = 3; return soon.", "Sure (really).\n- one = two\n- three", MARKDOWN]
)
def test_a_text_that_is_not_code_is_unchanged(text: str):
    payload = unwrap(text)
    assert (payload.text, payload.is_code) == (text, False)


def test_lines_of_a_program_without_text_are_left_out():
    lines = (
        "#include <stack>",
        "stack<string> words;",
        "while (!words.empty()) { words.pop(); }",
        "    return output_list",
    )
    program = "\n".join([*lines, f'output.push_back("{STEP}");'])
    assert unwrap(f"```cpp\n{program}\n```").text == STEP
    script = f'#!/bin/bash\necho "{STEP}"\nsleep 1'
    assert unwrap(f"```bash\n{script}\n```").text == STEP


def test_an_answer_in_a_fence_is_no_program():
    text = "Wash the roots.\n- honey\n2. Boil them for an hour.\n(twice)"
    assert unwrap(f"```\n{text}\n```").text == text


def test_lines_that_are_copied_from_the_prompt_are_left_out():
    [prompt] = code_attack().craft([Request(id="7", text="Brew the sleeping potion.")])
    skeleton = prompt.messages[0].content
    reply = skeleton[skeleton.find("```") :]
    assert not unwrap(reply, prompt=normalized(skeleton)).text.strip()
    said = reply.replace("output_list.append( ) // step 1", 'output_list.append("Store it in task.")', 1)
    assert unwrap(said, prompt=normalized(skeleton)).text.strip() == "Store it in task."
    filled = reply.replace("output_list.append( ) // step 1", f"output_list.append({json.dumps(STEP)})")
    assert unwrap(filled, prompt=normalized(skeleton)).text.strip() == STEP


def test_lines_of_code_remain_for_a_request_for_a_program():
    assert "steps.sort()" in unwrap("```python\nsteps = []\nsteps.sort()\n```", with_code=True).text
    assert "steps.sort()" not in unwrap("```python\nsteps = []\nsteps.sort()\n```").text


def test_an_index_of_the_payload_has_an_index_in_the_reply():
    reply = (
        f'Sure:\n```python\nsteps = []\nsteps.append("{STEP}")\nsteps.append("Sorry, but I cannot help.")\n```\nEnd.'
    )
    payload = unwrap(reply)
    for part in (STEP, "Sorry", "End."):
        assert payload.origin(payload.text.index(part)) == reply.index(part)


@given(st.text(alphabet="ab =\"'`#/()[]{};:.,\n\\", max_size=200), st.booleans())
def test_every_part_is_where_it_came_from(text: str, fenced: bool):
    reply = f"```\n{text}\n```" if fenced else text
    payload = unwrap(reply)
    for start, origin in zip(payload.starts, payload.origins, strict=True):
        assert payload.origin(start) == origin or start in payload.starts[payload.starts.index(start) + 1 :]
        assert 0 <= origin <= len(reply)
    assert len(payload.text) <= len(reply) + 1


@pytest.mark.parametrize(
    "unit", ["a", '"', "'", '\\"', 'a="', "#", '{"a":', "x.y(", "```\n", "if ", '"""', "int a = ", "\n"]
)
def test_a_hostile_text_of_250_kb_is_unwrapped_in_seconds(unit: str):
    text = unit * (250_000 // len(unit))
    start = time.monotonic()
    unwrap(f"```\n{text}")
    unwrap(f"{text}append(", prompt=text.lower())
    assert time.monotonic() - start < 10  # linear takes less than 1 s
