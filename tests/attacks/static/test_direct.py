import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.attacks import build_attack
from derta.attacks.static.direct import direct
from derta.errors import RecipeError
from derta.records import Message, Request


@given(text=st.text(min_size=1).filter(str.strip))
def test_the_prompt_is_the_request_alone_character_for_character(text):
    [prompt] = direct().craft([Request(id="r", text=text)])
    assert (prompt.mode, prompt.messages) == ("chat", (Message(role="user", content=text),))
    assert (prompt.variant, prompt.text, prompt.prefill, prompt.decoding) == (None, None, None, None)


def test_direct_has_no_options():
    with pytest.raises(RecipeError, match="unknown option 'depth'; there are none"):
        build_attack("direct", {"depth": "50%"})
