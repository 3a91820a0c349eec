"""Facts of a run's trained model for its card, from the run's files: no data is read, and no weights but for a hash."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from derta.data.public_sets import PUBLIC_SETS
from derta.errors import RecipeError, RunError, did_you_mean
from derta.files import read_records
from derta.loading import is_adapter
from derta.methods import METHODS
from derta.pipeline.contents import ModelEntry, read_contents
from derta.pipeline.listing import list_names
from derta.pipeline.run_paths import REPLIES, is_run
from derta.provenance import HUB_ID, hash_value, model_hash, split_revision
from derta.records import Reply, short_hash
from derta.reporting.model_card import CardFacts, DataSource
from derta.sources.named import NAMED
from derta.sources.shipped import PREFIX, SHIPPED

_USES = ("triples", "helpful", "counter", "preferences")
_SETTINGS = (
    "num_train_epochs",
    "max_steps",
    "global_batch_size",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "optim",
    "max_length",
    "sorry_dropout",
    "prefix_share",
    "helpful_weight",
    "safe_weight",
    "rto_weight",
    "completion_weight",
    "counter_weight",
    "anchor_weight",
    "completion_per_triple",
    "counter_per_triple",
    "bf16",
    "save_dtype",
)


class TrainedModel(NamedTuple):
    """A trained model of a run: the folder of its files, its entry in `run.json`, and the run's manifest."""

    weights: Path
    run: Path
    entry: ModelEntry
    manifest: dict[str, Any]


def find_trained(path: Path | str) -> TrainedModel:
    """Return the trained model of a model's folder in a run, such as `RUN/derta-seed0`.

    Raises:
        RunError: the path is no such folder, the model was not trained by the run, or it is a model after an attack.
    """
    path = Path(path)
    home = path.parent if path.name == "model" else path
    if is_run(home):
        models = ", ".join(sorted(one.parent.name for one in home.glob("*/model"))) or "none"
        raise RunError(f"{path}: expected the folder of one model of a run, got the run; name one of: {models}")
    run = home.parent
    entries = read_contents(run).models
    entry = next((one for one in entries if one.folder == home.name), None)
    if entry is None:
        raise RunError(f"{path}: expected a model of the run {run}; {did_you_mean(home.name, _folders(entries))}")
    if entry.fine_tuning is not None:
        raise RunError(
            f"{path}: expected a model of a method, got one after the attack {entry.fine_tuning}, whose refusals were "
            "trained away; publish the model before the attack"
        )
    if not (home / "model").is_dir():
        raise RunError(
            f"{path}: expected a trained model, found none: {entry.label} is evaluated as it is, or decodes the model "
            "of another method; publish that one"
        )
    return TrainedModel(home / "model", run, entry, _read_object(run / "manifest.json", ("recipe", "inputs")))


def _folders(entries: tuple[ModelEntry, ...]) -> list[str]:
    return [one.folder for one in entries]


def check_measured(model: TrainedModel) -> None:
    """Check that the run's replies are of these weights, so that a card never has the rates of others.

    Raises:
        RunError: there are none, or another model gave them.
    """
    path = model.weights.parent / REPLIES
    reply = next(iter(read_records(path, Reply)), None) if path.is_file() else None
    if reply is None or reply.producer is None:
        raise RunError(f"{path}: expected replies of the model, found none; evaluate it with `derta run`")
    key = "adapter" if is_adapter(model.weights) else "model"
    if reply.producer.get(key) != model_hash(model.weights):
        raise RunError(
            f"{path}: expected replies of {model.weights}, got those of other weights; run `derta run` again"
        )


def card_facts(
    model: TrainedModel,
    *,
    name: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
    data_licenses: Mapping[str, str] | None = None,
) -> CardFacts:
    """Return the facts of a trained model for its card.

    Args:
        model: The model.
        name: Its name. Default: that of its method and base model.
        license: Its licence.
        base_model: Hub id of the base model, if the recipe names a local folder.
        data_licenses: Licences of sources of training data, by the name of the file or hub data set.

    Raises:
        RecipeError: a licence of a source that the recipe does not have, or a base model that is no hub id.
        RunError: a file of the run is damaged.
    """
    recipe: Mapping[str, Any] = model.manifest["recipe"]
    method = model.entry.label
    found = METHODS.get(recipe.get("method_settings", {}).get(method, {}).get("method", method))
    base, _ = split_revision(str(recipe["model"]["path"]))
    hub_base = _hub_base(base, base_model)
    base_name = hub_base or PurePath(base).name
    return CardFacts(
        name=name or f"{method} on {base_name}",
        method=method,
        description="" if found is None else found.description,
        seed=model.entry.seed,
        base=base_name,
        base_version=_base_version(model.manifest),
        hub_base=hub_base,
        is_adapter=is_adapter(model.weights),
        license=license,
        model_hash=model_hash(model.weights),
        recipe=str(recipe.get("title", "")),
        recipe_hash=hash_value(recipe),
        commit=model.manifest.get("commit"),
        versions=model.manifest.get("versions", {}),
        settings=_settings(model),
        sources=_data_sources(model.manifest, data_licenses or {}),
        judges=_judges(recipe),
    )


def _is_hub_id(base: str) -> bool:
    return HUB_ID.fullmatch(base) is not None and not Path(base).exists()


def _hub_base(base: str, given: str | None) -> str | None:
    if given is not None and not HUB_ID.fullmatch(given):
        raise RecipeError(f"--base-model: expected a hub id (org/name), got {given!r:.80}")
    return given or (base if _is_hub_id(base) else None)


def _base_version(manifest: Mapping[str, Any]) -> str | None:
    """Return the commit of a hub id, or the hash of a folder's files as `derta.provenance.model_hash` computes it."""
    _, _, commit = str(manifest.get("training", {}).get("base_model", "")).partition("@")
    folder = PurePath(str(manifest["recipe"]["model"]["path"]))
    hashes = {
        PurePath(file).name: value for file, value in manifest["inputs"].items() if PurePath(file).parent == folder
    }
    files = [f"{name}:{value}" for name, value in sorted(hashes.items())]
    return commit or (short_hash(*files) if files else None)


def _settings(model: TrainedModel) -> dict[str, object]:
    arguments = _read_object(model.weights / "training_args.json", ())
    lora = model.manifest["recipe"].get("train", {}).get("lora") or {}
    adapter = {f"lora.{key}": lora[key] for key in ("r", "lora_alpha", "load_in_4bit") if key in lora}
    shown = {key: arguments[key] for key in _SETTINGS if arguments.get(key) not in (None, False, -1)}
    return {**shown, **adapter}


def _data_sources(manifest: Mapping[str, Any], licenses: Mapping[str, str]) -> tuple[DataSource, ...]:
    data, inputs = manifest["recipe"]["data"], manifest["inputs"]
    sources = [
        DataSource(
            use=use + (" (answers of the base model)" if source.get("answers") == "model" else ""),
            name=(name := _source_name(str(source["path"]))),
            sha256=inputs.get(str(source["path"])),
            licence=licenses.get(name) or _known_licence(name),
        )
        for use in _USES
        for source in data.get(use) or ()
    ]
    for name in licenses:
        if name not in {source.name for source in sources}:
            known = did_you_mean(name, dict.fromkeys(source.name for source in sources))
            raise RecipeError(f"--data-license: no source {name!r:.80} of training data; {known}")
    return tuple(sources)


def _source_name(path: str) -> str:
    """Return the name of a source: a hub id or `derta:NAME` as it is, the name of a local file without its folders."""
    return path if path.startswith(PREFIX) or _is_hub_id(path) else PurePath(path).name


def _known_licence(name: str) -> str | None:
    if name.startswith(PREFIX):
        shipped = SHIPPED.get(name.removeprefix(PREFIX))
        return None if shipped is None else shipped.licence
    return next((one.licence for one in (*PUBLIC_SETS, *NAMED.values()) if one.path == name), None)


def _judges(recipe: Mapping[str, Any]) -> dict[str, str]:
    descriptions = {one.name: one.description for one in list_names("judges")}
    return dict(_described(recipe, descriptions))


def _described(recipe: Mapping[str, Any], descriptions: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for section in recipe.get("evaluate", ()):
        for judge in section.get("judges") or ():
            name, model = str(judge["name"]), judge.get("model")
            by = f" Asks the model {_source_name(str(model))}." if model else ""
            yield name, descriptions.get(name, "A judge of the recipe's author.").replace("`", "") + by


def _read_object(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: expected a file of a run in JSON ({error}); check the folder") from error
    if not isinstance(value, dict) or not {*keys} <= {*value}:
        raise RunError(
            f"{path}: expected the keys {', '.join(keys) or 'of settings'}, got other JSON; check the folder"
        )
    return value
