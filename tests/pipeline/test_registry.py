"""A caller's own attacks and judges in a run, and what a recipe may name: no code, and no server by itself."""

import json
from dataclasses import replace

import pytest
import yaml

from derta.attacks import Attack, prefill
from derta.attacks import from_function as attack_from
from derta.config import load_recipe
from derta.errors import DataError, EngineError, RecipeError, RunError
from derta.files import read_records
from derta.judges import build_judge
from derta.judges import from_function as judge_from
from derta.methods import row_method
from derta.pipeline.estimate import estimate
from derta.pipeline.run import run
from derta.provenance import prompt_hash
from derta.records import Prompt, Reply, Verdict
from derta.train.loss import label_loss


def politely(request, *, word="please"):
    """An attack of somebody's own, with an option."""
    return f"{word}: {request.text}"


def says_the(prompt, reply):
    """A judge of somebody's own."""
    return "the" in reply.text


def is_short(prompt, reply):
    return len(reply.text) < 9


@pytest.fixture
def own(recipe, tmp_path):
    """The small recipe with one method, an attack and a judge that derta does not have."""
    values = yaml.safe_load(recipe.read_text())
    requests = {"path": str(tmp_path / "asked.jsonl")}
    judges = ["refusal", "says_the"]
    evaluate = [{"attack": "politely", "options": {"word": "kindly"}, "requests": requests, "judges": judges}]
    return values | {"methods": ["vanilla"], "evaluate": evaluate, "profile_answers": 0}


def test_custom_functions_are_valid_like_built_in_names_and_the_results_of_a_changed_one_are_made_again(own, tmp_path):
    out, judge = tmp_path / "run", judge_from(says_the, measures="correct")
    summary = run(own, out=out, attacks={"politely": politely}, judges={"says_the": judge})
    prompts = list(read_records(out / "prompts.jsonl", Prompt))
    assert (prompts[0].id, prompts[0].messages[0].content) == ("politely:q0", "kindly: Where is bread now?")
    [cell] = [cell for cell in summary.cells if cell.judge == "says_the" and cell.suite != "analysis"]
    assert (cell.method, cell.name, cell.measure, cell.scored) == ("vanilla", "politely", "correct", 3)
    assert len(list(read_records(out / "vanilla-seed0/verdicts.says_the.jsonl", Verdict))) == 3
    functions = json.loads((out / "manifest.json").read_text())["recipe"]["functions"]
    assert (list(functions), list(functions["attacks"])) == (["attacks", "judges"], ["politely"])
    assert run(own, out=out, attacks={"politely": politely}, judges={"says_the": judge}) == summary

    changed = judge_from(is_short, measures="correct", name="says_the")
    home = out / "vanilla-seed0"
    run(own, out=out, attacks={"politely": politely}, judges={"says_the": changed})
    verdicts, superseded = (
        list(read_records(home / name, Verdict))
        for name in ("verdicts.says_the.jsonl", "verdicts.says_the.superseded.jsonl")
    )
    assert [one.key for one in verdicts] == [one.key for one in superseded]
    assert all(one.producer["judge"].startswith("says_the: is_short@") for one in verdicts)
    assert all(one.producer["judge"].startswith("says_the: says_the@") for one in superseded)
    other = attack_from(politely, version="2", options={"word": "gladly"})
    run(own | {"evaluate": [{**own["evaluate"][0], "options": {}}]}, out=out, attacks={"politely": other},
        judges={"says_the": changed})  # fmt: skip
    prompts = list(read_records(out / "prompts.jsonl", Prompt))
    assert prompts[0].messages[0].content == "gladly: Where is bread now?"
    replies = list(read_records(home / "replies.jsonl", Reply))
    assert {one.prompt_id: one.input_hash for one in replies} == {one.id: prompt_hash(one) for one in prompts}
    with pytest.raises(RecipeError, match="unknown attack 'politely'"):
        run(own, out=out, judges={"says_the": judge})


def test_a_lambda_is_a_judge_of_its_name_and_needs_a_version_only_without_a_source(own, tmp_path):
    namespace = {}
    exec("def typed(prompt, reply): return True", namespace)  # noqa: S102 - as in a console: it has no source
    own = own | {"evaluate": [{**own["evaluate"][0], "attack": "direct", "options": {}}]}
    with pytest.raises(RunError, match="give it a `version=`"):
        run(own, out=tmp_path / "run", judges={"says_the": namespace["typed"]})
    assert not (tmp_path / "run").exists()
    judge = judge_from(namespace["typed"], version="1", name="another")
    summary = run(own, out=tmp_path / "run", judges={"says_the": judge})
    assert {(cell.judge, cell.value) for cell in summary.cells if cell.measure == "harmful"} == {("says_the", 1.0)}


def twice_weighted(model, batch):
    """A method's loss of somebody's own: what vanilla's is, twice."""
    return label_loss(model, {**batch, "weights": 2 * batch["weights"]})


def test_a_custom_method_is_trained_with_built_in_ones_and_a_changed_one_is_refused(own, tmp_path):
    section = {**own["evaluate"][0], "attack": "direct", "options": {}, "judges": ["refusal"]}
    own |= {"methods": ["vanilla_half", "mine", "tuned_on"], "evaluate": [section]}
    own["train"] |= {"max_steps": 1, "warmup_steps": 0}
    mine = replace(row_method("mine"), loss=twice_weighted)
    on = replace(row_method("tuned_on"), init_from="mine")
    summary = run(own, out=tmp_path / "run", methods={"mine": mine, "tuned_on": on})
    assert {cell.method for cell in summary.cells} == {"vanilla_half", "mine", "tuned_on"}
    names = ("vanilla_half", "mine", "tuned_on")
    weights = {(tmp_path / f"run/{name}-seed0/model/model.safetensors").read_bytes() for name in names}
    assert len(weights) == 3
    functions = json.loads((tmp_path / "run/manifest.json").read_text())["recipe"]["functions"]
    assert list(functions["methods"]) == ["mine", "tuned_on"]
    with pytest.raises(RunError, match=r"differs in functions\.methods\.mine\)"):
        run(own, out=tmp_path / "run", methods={"mine": replace(mine, loss=None), "tuned_on": on})
    with pytest.raises(RecipeError, match="did you mean 'mined'"):
        run(own, out=tmp_path / "run", methods={"mined": replace(mine, name="mined"), "tuned_on": on})
    with pytest.raises(RecipeError, match="expected 'mine' under that name, got 'other'"):
        run(own, out=tmp_path / "run", methods={"other": mine})
    with pytest.raises(RunError, match=r"differs in functions\.methods\.tuned_on\)"):
        run(own, out=tmp_path / "run", methods={"mine": mine, "tuned_on": replace(on, init_from="vanilla_half")})
    with pytest.raises(RecipeError, match=r"expected 'mine' to be a derta\.Method, got function"):
        run(own, out=tmp_path / "run", methods={"mine": twice_weighted})
    with pytest.raises(RecipeError, match="methods: expected a mapping by name, got list"):
        run(own, out=tmp_path / "run", methods=[mine])
    [found] = estimate(own | {"methods": ["mine"]}, methods={"mine": mine})
    assert (found.method, found.steps) == ("mine", 1)


class Named:
    """A judge that calls itself something."""

    name, measures, uses_model = "itself", "harmful", False

    def judge(self, cases):
        return iter(())


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"attacks": {"direct": politely}}, RecipeError, "attacks: expected a name that is not built in, got 'dire"),
        ({"judges": {"harm": says_the}}, RecipeError, "judges: expected a name that is not built in, got 'harm'"),
        ({"attacks": {"politely": prefill}, "judges": {"says_the": says_the}}, RecipeError, "'word'"),
        ({"attacks": {"../up": politely}}, RecipeError, "attacks: expected a name of letters, digits"),
        ({"judges": {"a/b": says_the}}, RecipeError, "judges: expected a name of letters, digits"),
        ({"attacks": {"politely": politely}, "judges": {"says_the": 3}}, DataError, "says_the: expected a judge or a"),
        ({"attacks": {"politely": 3}, "judges": {"says_the": says_the}}, RecipeError, "expected a name, an attack or"),
        ({"attacks": {"politely": politely}, "judges": {"says_the": Named()}}, DataError, "'itself' under that name"),
        ({"attacks": {"politely": politely}, "judges": {"says_thee": says_the}}, DataError, "did you mean 'says_thee'"),
        (
            {
                "attacks": {"politely": Attack("mine", crafting=lambda requests, rng: iter(()))},
                "judges": {"says_the": says_the},
            },
            RecipeError,
            "expected no options",
        ),
    ],
)
def test_what_cannot_serve_is_refused_before_any_training(given, error, message, own, tmp_path):
    with pytest.raises(error, match=message):
        run(own, out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_an_attack_under_another_name_than_its_own_is_refused(own, tmp_path):
    attack = Attack("mine", crafting=lambda requests, rng: iter(()))
    own["evaluate"][0].pop("options")
    with pytest.raises(RecipeError, match="expected 'mine' under that name, got 'politely'"):
        run(own, out=tmp_path / "run", attacks={"politely": attack}, judges={"says_the": says_the})


@pytest.mark.parametrize("name", ["os.system", "os:system", "derta.attacks.direct", "builtins.print", "__import__"])
@pytest.mark.parametrize("key", ["attack", "judges", "methods"])
def test_a_recipe_names_no_code(name, key, recipe, tmp_path, derta):
    values = yaml.safe_load(recipe.read_text())
    if key == "methods":
        values["methods"] = [name]
    else:
        values["evaluate"][0][key] = [name] if key == "judges" else name
    recipe.write_text(yaml.safe_dump(values))
    called = derta("run", recipe, "--out", tmp_path / "run")
    assert (called.code, called.err.count("\n")) == (2, 1), called.err
    assert repr(name) in called.err
    assert "known: " in called.err or "did you mean" in called.err or "expected some of" in called.err
    assert not (tmp_path / "run").exists()


API = {"model": "m", "engine": "api", "settings": {"endpoints": ["https://models.example/v1"]}}


@pytest.fixture
def own_config(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def with_server(own, place):
    section = {**own["evaluate"][0], "attack": "multi_turn", "options": {}, "judges": ["refusal"]}
    if place == "judge":
        section["judges"] = [{"name": "guideline", **API}]
    else:
        section["search"] = {"attacker": API} if place == "attacker" else {"judge": "guideline", "judge_model": API}
    return own | {"evaluate": [section], "model": {"path": "no-model"}}


@pytest.mark.parametrize("place", ["judge", "attacker", "judge of a search"])
@pytest.mark.usefixtures("own_config")
def test_a_recipes_server_is_used_only_if_the_user_names_it(place, own, recipe, tmp_path, derta):
    recipe.write_text(yaml.safe_dump(with_server(own, place)))
    words = ("run", recipe, "--out", tmp_path / "run")
    called = derta(*words)
    assert (called.code, called.err.count("\n")) == (2, 1), called.err
    assert "would send prompts and a key to models.example" in called.err
    assert not (tmp_path / "run").exists()
    for allowed in (derta(*words, "--allow-endpoint", "models.example"), _allowed_by_file(words, tmp_path, derta)):
        assert (allowed.code, "no-model" in allowed.err) == (2, True), allowed.err  # the next check
    with pytest.raises(EngineError, match=r"send prompts and a key to models\.example"):
        run(load_recipe(recipe), out=tmp_path / "run", endpoints=["other.example"])


def _allowed_by_file(words, tmp_path, derta):
    (tmp_path / "config/derta").mkdir(parents=True)
    (tmp_path / "config/derta/config.yaml").write_text("endpoints: [models.example]\n")
    called = derta(*words)
    (tmp_path / "config/derta/config.yaml").unlink()
    return called


def test_a_judge_that_asks_no_model_is_given_none(recipe, tmp_path, own):
    own["evaluate"][0] |= {"attack": "direct", "options": {}, "judges": [{"name": "refusal", "model": "m"}]}
    with pytest.raises(DataError, match="judge 'refusal' uses no model; remove its model"):
        run(own, out=tmp_path / "run")
    own["evaluate"][0]["judges"] = ["guideline"]
    with pytest.raises(DataError, match=r"and the recipe names none; write \{name: guideline, model: \.\.\.\}"):
        run(own, out=tmp_path / "run")
    assert build_judge("refusal").uses_model is False
