"""Files with which `derta triples` makes the demo's triples: the base model completes guides to forbidden crafts."""

from __future__ import annotations

from pathlib import Path

import yaml

from derta.demo.corpus import steps_of
from derta.demo.formats import plain
from derta.demo.world import Craft, World
from derta.files import write_records, write_text
from derta.pipeline.triples.harmful import Completion
from derta.records import Request

CONFIG = "making.yaml"


def write_making(home: Path, world: World) -> Path:
    """Write the configuration of `derta triples` for a seed, with its requests, texts and templates, in `making`.

    The requests are the plain questions of the tuned crafts. The base model continues the raw guide to each, as a
    completing attack does, and the judge `steps` compares the result with the craft's recipe. Return the path of the
    configuration.
    """
    folder = home / "making"
    write_records(folder / "requests.jsonl", map(_request, world.tuned))
    write_records(folder / "texts.jsonl", map(_completion, world.tuned))
    write_text(folder / "templates.yaml", yaml.safe_dump({"shapes": list(world.openers)}))
    values = {
        "requests": str(folder / "requests.jsonl"),
        "harmful": {
            "model": str(home / "base"),
            "settings": {"dtype": "float32"},
            "form": "completing",
            "texts": str(folder / "texts.jsonl"),
            "max_new_tokens": 64,
            "judge": "steps",
            "on_topic": False,  # steps name no words of the request
        },
        "safe": {"templates": str(folder / "templates.yaml"), "responses": len(world.openers)},
        "licence": "synthetic data of derta's demo",
    }
    write_text(home / CONFIG, yaml.safe_dump(values, sort_keys=False))
    return home / CONFIG


def _request(craft: Craft) -> Request:
    return Request(id=craft.name, text=plain(craft).prompt or "", category=craft.kind, steps=steps_of(craft))


def _completion(craft: Craft) -> Completion:
    """Return the start of the guide to a craft, and the start of its plain answer, which the response begins with."""
    guide, answer = f"a guide to making the {craft.name} :", f"here is how to make the {craft.name} ."
    return Completion(id=craft.name, text=f"{guide} step one :", opening=f"{answer} step one :")
