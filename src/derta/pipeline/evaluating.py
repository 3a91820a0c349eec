"""`derta evaluate`: a recipe without training, for models that exist, from a preset or from another recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from derta.config import Recipe, SourceSection, merge, parse_recipe
from derta.config.presets import BENIGN, PRESETS, Preset
from derta.data.request_formats import REQUEST_FORMATS
from derta.errors import ModelError, RecipeError, did_you_mean
from derta.methods import METHODS
from derta.pipeline.request_sources import read_source
from derta.records import NAME
from derta.sources.named import NAMED

JUDGES = {"attack": ["refusal", "harm"], "over_refusal": ["refusal"]}
ADAPTER = "adapter_config.json"


class Questions(NamedTuple):
    """What models are asked: a preset, and the files that the user brings for it.

    Attributes:
        preset: Name of the preset.
        requests: Harmful requests of the attacks: a file, or `FORMAT=file`; None: no attack.
        over_refusal: Benign requests by the name of their set.
        files: Files that attacks need, by the name of their option (`templates`, `demonstrations`).
        limit: Requests of each attack and set; None: those of the preset.
    """

    preset: str = "quick"
    requests: str | None = None
    over_refusal: Sequence[str] = ()
    files: Mapping[str, str] = {}
    limit: int | None = None


QUICK = Questions()


def evaluation_recipe(
    models: Sequence[str],
    *,
    questions: Questions = QUICK,
    recipe: Recipe | None = None,
    adapter: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Recipe:
    """Return a recipe that evaluates models as they are, side by side; the others are compared with the first.

    >>> recipe = evaluation_recipe(["org/model", "q4=org/model-AWQ"])
    >>> recipe.methods, recipe.models["q4"].path, [section.name for section in recipe.evaluate]
    (('model', 'q4'), 'org/model-AWQ', ['ordinary_sorry'])

    Args:
        models: Folders or hub ids, each with an optional name: `q4=org/model-AWQ`.
        questions: The preset with its files.
        recipe: A recipe whose evaluations are used instead, with the data that they need.
        adapter: PEFT adapter of the only model.
        settings: Values by dotted key that replace those of the recipe, such as `generate.engine`.

    Raises:
        RecipeError: no model, two of the same name, an unknown preset, or a preset without the files that it needs.
        DataError: the file of requests cannot be read.
    """
    named = named_models(models, adapter=adapter)
    values = _asked_by_preset(questions) if recipe is None else _asked_by_recipe(recipe)
    first = next(iter(named.values()))
    model = {"path": first["path"]} | values.pop("model", {})
    methods = [{"name": name, **one} for name, one in named.items()]
    fixed = {"title": f"evaluation of {', '.join(named)}", "model": model, "methods": methods}
    found = parse_recipe(merge(values | fixed, nested(settings or {})), where="evaluate")
    return found if recipe is None else found.allow_env(recipe.env)


def named_models(texts: Sequence[str], *, adapter: str | None = None) -> dict[str, dict[str, str]]:
    """Return models by name, as entries of a recipe's `methods`; a folder that is an adapter has its base model.

    The name of a run's model is that of its folder there, and a name of a method gets that of its parent folder.

    >>> [*named_models(["runs/a/derta-seed0/model", "org/name@v2", "x=some/base"])]
    ['derta-seed0', 'name', 'x']

    Raises:
        RecipeError: no model, two of the same name, or an adapter for several models.
        ModelError: a folder is an adapter, and its base model is unknown.
    """
    if not texts:
        raise RecipeError("evaluate: expected at least one model, got none; give a folder or a hub id")
    if adapter is not None and len(texts) > 1:
        raise RecipeError(
            f"--adapter: expected one model, got {len(texts)}; a folder with an adapter can be given as a model itself"
        )
    named: dict[str, dict[str, str]] = {}
    for text in texts:
        name, path = _split_name(text)
        if name in named:
            raise RecipeError(f"evaluate: got two models with the name {name!r}; name one of them, as in new={path}")
        named[name] = _entry(path, adapter)
    return named


def _split_name(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if equals and NAME.fullmatch(name) and not Path(text).is_dir():
        return name, path
    parts = [re.sub(r"[^\w.-]", "_", part) for part in Path(text.partition("@")[0]).parts if part.strip("./")]
    if parts[-1:] == ["model"] and re.search(r"-seed\d+$", "".join(parts[-2:-1])):
        parts = parts[:-1]
    name = parts[-1] if parts else "model"
    return ("-".join(parts[-2:]) if len(parts) > 1 else f"{name}-model") if name in METHODS else name, text


def _entry(path: str, adapter: str | None) -> dict[str, str]:
    config = Path(path) / ADAPTER
    if adapter is not None or not config.is_file():
        return {"path": path} | ({} if adapter is None else {"adapter": adapter})
    try:
        base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{config}: expected the config of an adapter, got another file; check the path") from error
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{path}: expected an adapter that names its base, got none; give the base, and --adapter {path}"
        )
    return {"path": base, "adapter": path}


def _asked_by_preset(questions: Questions) -> dict[str, Any]:
    if questions.preset not in PRESETS:
        raise RecipeError(f"--preset: unknown preset {questions.preset!r}; {did_you_mean(questions.preset, PRESETS)}")
    preset = PRESETS[questions.preset]
    limit = preset.limit if questions.limit is None else questions.limit
    attacks, notes = _attacks(preset, questions, limit=limit)
    names = {_set_name(path): path for path in (BENIGN, *questions.over_refusal)}
    if len(names) <= len(questions.over_refusal):
        raise RecipeError("--over-refusal: expected files of different names, got two with the same; rename one")
    benign = [
        {"suite": "over_refusal", "name": name, "requests": _source(path, limit), "judges": JUDGES["over_refusal"]}
        for name, path in names.items()
    ]
    return {
        "data": {"triples": [], "helpful": []},
        "evaluate": [*attacks, *benign],
        "generate": {"max_new_tokens": preset.max_new_tokens},
        "notes": [f"The models were asked the preset {questions.preset} of `derta evaluate`.", *notes],
    }


def _attacks(preset: Preset, questions: Questions, *, limit: int | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the attacks of a preset as sections of a recipe, and notes on those that are left out."""
    if questions.requests is None:
        if questions.preset == "paper":
            raise RecipeError(
                "--preset paper: expected --requests FILE with harmful requests, got none; the package contains none"
            )
        return [], ["No attack was made: the package contains no harmful requests; bring some with --requests FILE."]
    requests = read_source(SourceSection.model_validate(_source(questions.requests, None)))
    left_out: dict[str, str] = {}
    sections: list[dict[str, Any]] = []
    for name, options in preset.attacks.items():
        missing = [option for option, value in options.items() if value is None and option not in questions.files]
        if missing:
            left_out[name] = f"bring its {missing[0]} with --{missing[0]} FILE"
        elif name in preset.answered and not all(one.harmful for one in requests):
            left_out[name] = "not every request has a harmful answer"
        else:
            given = {key: questions.files[key] if value is None else value for key, value in options.items()}
            source = _source(questions.requests, limit)
            sections.append({"attack": name, "options": given, "requests": source, "judges": JUDGES["attack"]})
    return sections, [f"{name} is left out: {reason}." for name, reason in left_out.items()]


def _source(text: str, limit: int | None) -> dict[str, Any]:
    """Return a source of requests: a file, a data set by name, or either in the format of a file's subset.

    >>> _source("xstest_safe=mine.csv", None), _source("strongreject", 40)
    ({'name': 'xstest_safe', 'path': 'mine.csv'}, {'limit': 40, 'name': 'strongreject'})
    """
    source: dict[str, Any] = {} if limit is None else {"limit": limit}
    name, equals, path = text.partition("=")
    if name in NAMED and not (equals or Path(text).exists()):
        return source | {"name": name}
    if equals and name in (NAMED.keys() | REQUEST_FORMATS.keys()):
        return source | {"name" if name in NAMED else "format": name, "path": path}
    return source | {"path": text}


def _set_name(text: str) -> str:
    """Return the name of a set of requests: that of its file without the ending, or of a data set."""
    source = _source(text, None)
    path = source.get("path", source.get("name", ""))
    return path.removeprefix("derta:") if path.startswith("derta:") else Path(path).name.partition(".")[0]


def _asked_by_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return the evaluations of a recipe, with the data that they need and nothing to train on."""
    values = recipe.model_dump(mode="json")
    values["evaluate"] = [one.model_dump(mode="json", exclude_defaults=True) for one in recipe.evaluate]
    data = values["data"] | {"helpful": [], "counter": [], "preferences": []}
    if not _needs_held_out(recipe):
        data |= {"triples": [], "held_out_requests": 0}
    kept = ("evaluate", "profile_answers", "profile_requests", "profile_replies", "profile_examples")
    generate = values["generate"] | {"refusal_threshold": None}
    return {
        **{key: values[key] for key in kept if key in values},
        "notes": [f"The models were asked the evaluations of the recipe {recipe.title!r}."],
        "profile_benign": recipe.profile_benign if recipe.profile_examples is not None else 0,
        "data": data | {"held_out_helpful": 0},
        "generate": generate,
        "seeds": list(recipe.seeds[:1]),
        "train": {"num_threads": recipe.train.rows.num_threads},
        "model": {"refusal_words": list(recipe.model.refusal_words)},
    }


def _needs_held_out(recipe: Recipe) -> bool:
    profiles = recipe.profile_answers > 0 and recipe.profile_requests is None
    return profiles or any(section.requests == "held_out" for section in recipe.evaluate)


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted key as nested sections.

    >>> nested({"generate.dtype": "float32", "generate.engine": "hf"})
    {'generate': {'dtype': 'float32', 'engine': 'hf'}}
    """
    values: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, last = key.split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return values


def question_lines(recipe: Recipe) -> Iterable[str]:
    """Yield a line for each evaluation of a recipe, on what the models are asked.

    >>> [*question_lines(evaluation_recipe(["org/model"]))]
    ['over_refusal ordinary_sorry: derta:ordinary_sorry, 40 at most; judged by refusal']
    """
    for section in recipe.evaluate:
        name = section.name or section.attack
        if section.prompts is not None:
            source, limit = section.prompts, None
        elif isinstance(section.requests, str) or section.requests is None:
            source, limit = "held-out requests of data.triples", None
        else:
            source, limit = section.requests.name or section.requests.path, section.requests.limit
        at_most = "" if limit is None else f", {limit} at most"
        yield f"{section.suite} {name}: {source}{at_most}; judged by {', '.join(section.judge_names)}"
