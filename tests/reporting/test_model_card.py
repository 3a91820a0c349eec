"""The model card: numbers of the summary, and no markup from names."""

import re

import pytest
import yaml

from derta.reporting.model_card import CardFacts, DataSource, code, render_card
from derta.results import Cell, Frontier, FrontierAxis, FrontierDifference, FrontierPoint, FrontierRate, Summary

FACTS = CardFacts(
    name="mine",
    method="derta",
    description="Both terms.",
    seed=1,
    base="org/base",
    base_version="abc123",
    hub_base="org/base",
    is_adapter=False,
    license="apache-2.0",
    model_hash="feed",
    recipe="a recipe",
    recipe_hash="beef",
    commit=None,
    versions={"derta": "0.1.0", "torch": "2.13.0"},
    settings={"learning_rate": 2e-5},
    sources=(DataSource("triples", "own.jsonl", "00ff", None), DataSource("helpful", "org/data", None, "MIT")),
    judges={"steps": "Counts steps."},
)


def rate(value, low, high, **counts):
    return FrontierRate(value=value, low=low, high=high, **{"scored": 20, "unscored": 0, "unanswered": 0, **counts})


def summary():
    axis = FrontierAxis(
        name="attack_success", judges=("steps",), sets=("plain",), left_out={}, prompts=20, prompts_left_out=0
    )
    points = (
        FrontierPoint(method="vanilla", seeds=(0, 1), rates={"attack_success": rate(0.8, 0.6, 0.9)}),
        FrontierPoint(
            method="derta",
            seeds=(0, 1),
            rates={"attack_success": rate(0.05, 0.01, 0.2, unscored=2, unanswered=1)},
            differences={"attack_success": FrontierDifference(value=-0.75, low=-0.9, high=-0.5)},
        ),
    )
    cells = tuple(
        Cell(method="derta", seed=seed, suite="attack", name="plain|<b>", judge="steps", measure="harmful",
             value=0.25, low=0.125, high=0.5, scored=8, unscored=0)
        for seed in (0, 1)
    )  # fmt: skip
    frontier = Frontier(baseline="vanilla", axes=(axis,), compared=(), points=points)
    return Summary(title="a run", recipe="a run", versions={}, cells=cells, frontier=frontier)


def metadata(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_has_rates_with_intervals_counts_and_judges_against_the_baseline():
    card = render_card(FACTS, summary())
    row = "| attack success | lower | 5.0 | 1.0–20.0 | 20 (+ 3 not judged) | steps | 80.0 | −75.0 (−90.0 to −50.0) |"
    assert row in card.splitlines()
    assert "over the seeds 0, 1 of the recipe; this model is seed 1" in card


def test_the_card_lists_only_the_cells_of_the_models_own_seed():
    card = render_card(FACTS, summary())
    assert card.count("25.0 | 12.5–50.0 | 8 |") == 1
    assert "| attack | plain\\|&lt;b&gt; | steps | harmful |" in card


def test_the_card_says_what_no_judge_measured():
    card = render_card(FACTS, summary())
    assert "**Not measured: over-refusal.**" in card
    assert "**Not measured: tasks done.**" in card
    assert "**Not measured: attack success.**" not in card


def test_the_baselines_own_card_compares_with_nothing():
    card = render_card(FACTS._replace(method="vanilla"), summary())
    assert "| attack success | lower | 80.0 | 60.0–90.0 | 20 | steps |" in card.splitlines()
    assert "difference" not in card


@pytest.mark.parametrize(
    ("is_adapter", "library", "kind"), [(False, "transformers", "finetune"), (True, "peft", "adapter")]
)
def test_the_metadata_name_the_base_model_and_the_library(is_adapter, library, kind):
    values = metadata(render_card(FACTS._replace(is_adapter=is_adapter), summary()))
    assert (values["base_model"], values["library_name"], values["base_model_relation"]) == ("org/base", library, kind)
    assert (values["license"], values["pipeline_tag"]) == ("apache-2.0", "text-generation")
    assert values["tags"] == ["derta", "safety", "refusal"]


def test_without_a_base_on_the_hub_and_a_licence_the_metadata_claim_neither():
    card = render_card(FACTS._replace(hub_base=None, license=None, method="derta"), summary())
    assert not {"base_model", "license", "base_model_relation"} & metadata(card).keys()
    assert "Licence of this model: not stated." in card


def test_a_data_licence_is_named_or_said_to_be_unknown():
    card = render_card(FACTS, summary())
    assert "| triples | `own.jsonl` | unknown: state it | `00ff` |" in card
    assert "| helpful | `org/data` | MIT |  |" in card
    assert "A licence that is unknown must be found out" in card


def test_names_of_a_recipe_cannot_be_markup_of_the_card():
    hostile = "x\n\n# <script>alert(1)</script> [a](javascript:b) `c` | d\n---\n"
    facts = FACTS._replace(name=hostile, base=hostile, recipe=hostile, judges={hostile: hostile}, commit=hostile)
    card = render_card(facts, summary())
    outside = re.sub("`[^`\n]*`", "", card.replace("\\`", ""))  # in a code span it is text
    assert "<script" not in outside
    assert not re.search(r"(?<!\\)\]\(javascript", outside)
    assert [line for line in card.splitlines() if line.startswith("# ")] == [
        "# x \\# &lt;script&gt;alert(1)&lt;/script&gt; \\[a\\](javascript:b) \\`c\\` \\| d ---"
    ]
    assert card.count("\n---\n") == 1


def test_a_code_span_ends_where_it_should():
    assert code("a`|\nb") == "`a'¦ b`"
    assert code("") == "` `"
