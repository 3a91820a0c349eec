"""Public data sets whose rows are read as they are: their format, their place in a recipe, and their licence."""

from __future__ import annotations

from typing import NamedTuple


class PublicSet(NamedTuple):
    """A data set on the hub.

    Attributes:
        path: Hub id, or the name of a file of a project's repository.
        description: What its rows are.
        use: Key of a recipe that it is for.
        format: Name of its format, which `auto` detects unless docs/data.md says that it must be named.
        licence: Licence of the data as its page states it; None: see there. It is no legal advice.
    """

    path: str
    description: str
    use: str
    format: str
    licence: str | None


PUBLIC_SETS: tuple[PublicSet, ...] = (
    PublicSet(
        "PKU-Alignment/PKU-SafeRLHF",
        "Requests with two responses, each labelled safe or not.",
        "data.triples",
        "pku_saferlhf",
        "CC-BY-NC-4.0",
    ),
    PublicSet(
        "PKU-Alignment/BeaverTails",
        "Requests with a response, labelled safe or not.",
        "data.triples",
        "beavertails",
        "CC-BY-NC-4.0",
    ),
    PublicSet(
        "allenai/wildguardmix", "Requests with labelled responses (gated).", "data.triples", "wildguard", "ODC-BY"
    ),
    PublicSet("Anthropic/hh-rlhf", "Conversations with a chosen and a rejected end.", "data.preferences", "hh", "MIT"),
    PublicSet("tatsu-lab/alpaca", "Instructions with answers.", "data.helpful", "alpaca", "CC-BY-NC-4.0"),
    PublicSet("databricks/databricks-dolly-15k", "Instructions with answers.", "data.helpful", "dolly", "CC-BY-SA-3.0"),
    PublicSet(
        "HuggingFaceH4/ultrafeedback_binarized",
        "Conversations with a better and a worse answer.",
        "data.helpful",
        "messages",
        "MIT",
    ),
    PublicSet(
        "allenai/wildjailbreak",
        "Benign look-alike requests with answers (gated).",
        "data.counter",
        "wildjailbreak",
        "ODC-BY",
    ),
    PublicSet("allenai/coconot", "Benign look-alike requests (config pref).", "data.counter", "preference", "ODC-BY"),
    PublicSet("openai/gsm8k", "Mathematical questions with answers.", "helpfulness", "questions", "MIT"),
    PublicSet(
        "LibrAI/do-not-answer", "Requests that a model should refuse.", "evaluate", "do_not_answer", "CC-BY-NC-SA-4.0"
    ),
    PublicSet("alpaca_eval.json", "AlpacaEval: everyday instructions.", "evaluate", "instructions", "CC-BY-NC-4.0"),
    PublicSet("mmlu.zip", "MMLU: questions with four options.", "helpfulness", "mmlu", "MIT"),
)
"""Sets by their place in a recipe; training on a set that is evaluated is refused row by row."""
