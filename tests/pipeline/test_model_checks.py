"""Checks of a run's models before any is trained."""

import pytest

from derta.chat import encode_after
from derta.config import Recipe
from derta.errors import ModelError
from derta.pipeline.model_checks import check_scored
from derta.pipeline.models import load_format
from derta.records import Prompt


def test_a_refusal_word_of_several_tokens_needs_room_after_an_answer_that_is_scored(tiny_model_dir):
    recipe = Recipe(title="t", model={"path": str(tiny_model_dir)}, data={"triples": [], "helpful": []})
    prompt = Prompt(id="p", request_id="r", request="?", attack="direct", mode="raw", text="Step 1:")
    chat, _ = load_format(recipe)
    answer = next(
        text for n in range(1, 256) if sum(map(len, encode_after(chat, prompt, text := " the" * n)[:2])) == 256
    )
    check_scored(recipe, [(prompt, answer)])
    several = recipe.model.model_copy(update={"refusal_words": ("Sure",)})  # " Sure" is three tokens
    with pytest.raises(ModelError, match="more than the model's 256 positions"):
        check_scored(recipe.model_copy(update={"model": several}), [(prompt, answer)])
