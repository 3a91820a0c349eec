import pytest

from derta.config import load_recipe
from derta.errors import DertaError, RecipeError
from derta.methods import METHODS, method_config, shares_speed
from derta.pipeline.estimate import estimate
from derta.protocols import Display
from recorded_progress import RecordedProgress


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


def test_methods_that_are_equally_fast_share_a_probe(recipe, monkeypatch):
    from derta.train import estimate as measuring

    probed, measure = [], measuring.measure
    monkeypatch.setattr(measuring, "measure", lambda trainer, plan: probed.append(plan) or measure(trainer, plan))
    vanilla, derta = estimate(load_recipe(recipe))
    [planned] = probed
    assert max(shape.padded for shape in planned.sampled) > 0
    assert vanilla.peak_gib == derta.peak_gib
    assert vanilla.tokens != derta.tokens


@pytest.mark.parametrize(
    ("method", "settings", "shared"),
    [
        ("vanilla", {}, True),
        ("derta", {"prefix_share": 0.1, "rto_weight": 2.0, "num_train_epochs": 3}, True),
        ("balanced", {}, True),
        ("derta", {"anchor_weight": 0.1}, False),
        ("derta", {"tree_rows": True}, False),
        ("derta", {"max_length": 64}, False),
        ("derta", {"normalization": "row"}, False),
    ],
)
def test_a_speed_is_shared_by_methods_whose_settings_differ_in_rows_alone(method, settings, shared, recipe, tmp_path):
    loaded = load_recipe(recipe)
    first, second = (
        method_config(
            METHODS[name], loaded.train, model=loaded.model, seed=0, output_dir=tmp_path / name, settings=changes
        )
        for name, changes in (("derta", {}), (method, settings))
    )
    assert shares_speed((METHODS["derta"], first), (METHODS[method], second)) is shared


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ({"generate.settings": {"speed": 1}}, "unknown setting 'speed'"),
        ({"train.report_to": "nowhere"}, "nowhere"),
        ({"evaluate": [{"attack": "direct", "requests": {"path": "missing.jsonl"}}]}, "missing.jsonl"),
        (
            {"evaluate": [{"requests": "held_out", "judges": [{"name": "guideline", "model": "/no/such/judge"}]}]},
            "/no/such/judge: expected a model folder or a hub id",
        ),
    ],
)
def test_what_a_run_checks_first_fails_before_a_model_is_loaded(recipe, overrides, part, monkeypatch):
    monkeypatch.setattr("derta.pipeline.estimate.estimate_methods", lambda *_, **__: pytest.fail("a probe"))
    with pytest.raises(DertaError) as error:
        estimate(load_recipe(recipe, overrides=overrides))
    assert part in str(error.value)


def test_an_estimate_shows_its_progress(recipe):
    shown = RecordedProgress()
    estimate(load_recipe(recipe, overrides={"methods": ["derta"]}), display=Display(shown))
    assert list(shown.tasks) == ["counting rows and tokens", "derta: measuring steps"]
