"""Command that publishes a trained model with its model card: `publish`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from derta.cli.verbs import options
from derta.cli.verbs.options import AsJson
from derta.errors import RecipeError


def publish(
    model: Annotated[Path, typer.Argument(help="Folder of a model in a run: RUN/METHOD-seedN.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New folder for the model and its card.")] = None,
    push: Annotated[str | None, typer.Option(metavar="ORG/NAME", help="Repository on the Hugging Face Hub.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch of the repository; it is created.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Only into a private repository.")] = False,
    license_: Annotated[str | None, typer.Option("--license", help="Licence of the model: apache-2.0, mit, …")] = None,
    base_model: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Hub id of the base model, if the recipe has a folder.")
    ] = None,
    data_license: Annotated[
        list[str], typer.Option(metavar="SOURCE=LICENSE", help="Licence of a source of training data.")
    ] = [],
    as_json: AsJson = False,
) -> None:
    """Publish a trained model with a model card, in a folder or on the Hugging Face Hub.

    The card has the base model, method, settings, hashes, limits, licences of the data, and the rates of the run with
    intervals and judges; it has no prompt and no reply. The token of the hub is HF_TOKEN. Only a model that its run has
    measured is published, and none after a fine-tuning attack.

    Example: derta publish runs/gemma/balanced-seed0 --out published --license gemma --base-model google/gemma-3-270m
    """
    from derta.cli.console import console_display, print_output
    from derta.pipeline.publishing import Hub, publish

    if push is None and (revision is not None or private):
        raise RecipeError("--revision, --private: expected --push ORG/NAME with them, got none")
    result = publish(
        model,
        out=out,
        hub=None if push is None else Hub(push, revision, private),
        license=license_,
        base_model=base_model,
        data_licenses={key: str(value) for key, value in options.pairs(data_license, option="--data-license").items()},
        display=console_display(),
    )
    value = {
        "folder": None if result.folder is None else str(result.folder),
        "url": result.url,
        "files": list(result.files),
    }
    places = [str(place) for place in (result.folder, result.url) if place is not None]
    print_output(value, *(f"{len(result.files)} files: {place}" for place in places), as_json=as_json)
