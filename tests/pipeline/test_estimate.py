import pytest

from derta.config import load_recipe
from derta.errors import RecipeError
from derta.pipeline.estimate import estimate


def test_every_trained_method_is_estimated_in_the_recipes_order(recipe, tmp_path, caplog):
    caplog.set_level("INFO", "derta")
    before = sorted(tmp_path.rglob("*"))
    loaded = load_recipe(recipe, overrides={"methods": ["derta", "base", "vanilla"], "seeds": [0, 1]})
    derta, vanilla = estimate(loaded)
    assert (derta.method, vanilla.method) == ("derta", "vanilla")
    # derta: 4 examples, 2 safe and 2 RTO rows; vanilla: 4 examples and twice as many triples; 2 rows a step
    assert (derta.rows, derta.steps, vanilla.rows, vanilla.steps) == (8, 4, 8, 4)
    for one in (derta, vanilla):
        assert one.unit == "rows"
        assert 0 < one.labels < one.tokens
        assert 0 <= one.padding < 1
        assert one.seconds >= 0
        assert one.peak_gib > 0
    assert "The recipe has 2 seeds: training takes that many times as long." in caplog.text
    assert "triples remain for training" in caplog.text
    assert sorted(tmp_path.rglob("*")) == before


def test_a_method_is_unknown_unless_the_caller_gives_it(recipe):
    with pytest.raises(RecipeError, match="methods: unknown method 'mine'"):
        estimate(load_recipe(recipe, overrides={"methods": ["mine"]}))
