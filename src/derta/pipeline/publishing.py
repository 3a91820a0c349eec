"""`derta publish`: a trained model of a run with a model card, in a folder or on the Hugging Face Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from derta.errors import RunError
from derta.pipeline.card_facts import TrainedModel, card_facts, check_measured, find_trained
from derta.protocols import Display
from derta.provenance import HUB_ID
from derta.reporting import read_summary
from derta.reporting.model_card import CardFacts, render_card
from derta.results import Summary
from derta.run_folder import finish_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"
_ADAPTER = "adapter_config.json"


class Hub(NamedTuple):
    """A repository of the Hugging Face Hub, the branch to commit to (None: main), and whether it must be private."""

    repository: str
    revision: str | None = None
    private: bool = False


class Published(NamedTuple):
    """A published model: its card, the names of its files, its folder and its address; None where it was not put."""

    card: str
    files: tuple[str, ...]
    folder: Path | None
    url: str | None


def publish(
    model: Path | str,
    *,
    out: Path | None = None,
    hub: Hub | None = None,
    license: str | None = None,
    base_model: str | None = None,
    data_licenses: Mapping[str, str] | None = None,
    display: Display = Display(),
) -> Published:
    """Write a trained model of a run with its model card to a new folder, to the hub, or to both.

    Args:
        model: Folder of a model in a run, such as `RUN/derta-seed0`.
        out: The new folder.
        hub: The repository, which is created if it does not exist. The token is `HF_TOKEN`, or that of `hf auth login`.
        license: Licence of the model.
        base_model: Hub id of the base model, if the recipe names a local folder.
        data_licenses: Licences of the sources of training data, by their names in the card.
        display: Shows the sources whose licence is unknown.

    Raises:
        RunError: the model was not trained or not measured by a finished run, `out` exists, or the hub refuses.
        RecipeError: a licence of an unknown source, or a base model that is no hub id.
        DataError: the run has no `summary.json`.
    """
    if out is None and hub is None:
        raise RunError("publish: expected --out DIR or --push ORG/NAME, got neither")
    if out is not None and out.exists():
        raise RunError(f"{out}: expected a new folder, found one; choose another --out, or delete it")
    api = None if hub is None else _connect(hub)
    trained = find_trained(model)
    summary = _measured(trained)
    name = None if hub is None else hub.repository.partition("/")[2]
    facts = card_facts(trained, name=name, license=license, base_model=base_model, data_licenses=data_licenses)
    card = render_card(facts, summary)
    files = _files(trained, facts) | {CARD: card.encode()}
    for source in facts.sources:
        if source.licence is None:
            display.logger.warning("the licence of %s is unknown; --data-license %s=...", source.name, source.name)
    if out is not None:
        _write(files, out)
    url = _push(files, hub, api) if hub is not None and api is not None else None
    return Published(card, tuple(sorted(files)), out, url)


def _measured(trained: TrainedModel) -> Summary:
    """Return the summary of a model's run, which has its rates."""
    summary = read_summary(trained.run / "summary.json")
    points = () if summary.frontier is None else summary.frontier.points
    if not any(point.method == trained.entry.label for point in points):
        raise RunError(
            f"{trained.run}: expected rates of {trained.entry.label}, found none; add judges to the recipe's "
            "evaluations, and run it again"
        )
    check_measured(trained)
    return summary


def _files(trained: TrainedModel, facts: CardFacts) -> dict[str, Path | bytes]:
    """Return the files to publish by name; an adapter's config names the base model on the hub."""
    folder = trained.weights
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".") and path.name != CARD
    }
    if not facts.is_adapter:
        return files
    if facts.hub_base is None:
        raise RunError(
            f"{folder}: expected the hub id of the adapter's base model, got the local folder {facts.base}, with which "
            "nobody else can load it; add --base-model ORG/NAME"
        )
    config: dict[str, Any] = json.loads((folder / _ADAPTER).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = facts.hub_base
    return files | {_ADAPTER: (json.dumps(config, indent=2) + "\n").encode()}


def _write(files: Mapping[str, Path | bytes], out: Path) -> None:
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, content in files.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                shutil.copyfile(content, path)
    except OSError as error:
        raise RunError(f"{out}: cannot write it ({error.strerror}); choose another --out") from error
    finish_folder(partial, out)


def _connect(hub: Hub) -> HfApi:
    """Return a client of the hub, which has a token."""
    from huggingface_hub import HfApi, get_token

    if not HUB_ID.fullmatch(hub.repository) or "@" in hub.repository:
        raise RunError(f"--push: expected ORG/NAME, got {hub.repository!r:.80}")
    if get_token() is None:
        raise RunError("--push: expected a token of the Hugging Face Hub in HF_TOKEN, found none; set it")
    return HfApi()


def _push(files: Mapping[str, Path | bytes], hub: Hub, api: HfApi) -> str:
    """Upload the files in one commit, and return the address of the repository."""
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of its HTTP package
    )

    try:
        url = str(api.create_repo(hub.repository, private=hub.private or None, exist_ok=True))
        if hub.private and not api.repo_info(hub.repository).private:
            raise RunError(f"--private: expected a private repository, but {hub.repository} is public; choose another")
        if hub.revision is not None:
            api.create_branch(hub.repository, branch=hub.revision, exist_ok=True)
        api.create_commit(
            hub.repository,
            [CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message="Model and model card by derta publish",
            revision=hub.revision,
        )
    except (HTTPError, OSError, HFValidationError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"--push {hub.repository}: the hub did not accept it ({reason}); check the name and token"
        ) from error
    return url
