"""Commands that open pages in the browser: `view` and `explore`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from derta.cli.verbs import options
from derta.cli.verbs.options import AsJson, EngineOption, Redact

if TYPE_CHECKING:
    from derta.records import Measure

Port = Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: any free one.")]
NoOpen = Annotated[bool, typer.Option("--no-open", help="Do not open the browser; only print the address.")]


def view(
    run: Annotated[Path, typer.Argument(help="Folder of a run or of runs with a report, or the page itself.")],
    redact: Redact = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open the browser; only print the path.")] = False,
    as_json: AsJson = False,
) -> None:
    """Open a run's report in the browser and print its path.

    With --redact, a page without harmful texts is written to the folder `redacted` of the run and opened.

    Example: derta view runs/gemma
    """
    from derta.cli.console import console_display, print_output
    from derta.pipeline.viewing import find_page, open_page

    display = console_display()
    page = find_page(run, redact=redact, display=display)
    if not no_open and not open_page(page):
        display.logger.warning("no browser was found; open the page yourself")
    print_output({"report": str(page)}, str(page), as_json=as_json)


def explore(
    models: Annotated[list[str], typer.Argument(help="Model folders, hub ids, PEFT adapters, or the folder of a run.")],
    base: Annotated[str | None, typer.Option(help="Base model of adapters (default: the one that they name).")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts to start from (default: those of the first model's run).")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=4096, help="New tokens of a reply, at first.")] = 64,
    engine_option: EngineOption = [],
    port: Port = 0,
    no_open: NoOpen = False,
    as_json: AsJson = False,
) -> None:
    """Try models in the browser: their replies token by token, P(refusal), bans and thresholds.

    All models are loaded at the start and share the memory; one generates at a time. The page is served on this machine
    only, at an address with a new token. It loads nothing from elsewhere; what you type is neither saved nor logged.

    Example: derta explore runs/demo/seed0/run/vanilla-seed0 runs/demo/seed0/run/derta-seed0
    """
    from derta.cli.console import console_display
    from derta.pipeline.explored_models import example_prompts, find_models, load_models, prompts_of_run
    from derta.ui.server import check_installed, listen, serve

    check_installed()
    from derta.ui.explore import explore_app

    display = console_display()
    found = find_models(models)
    path = prompts or prompts_of_run(found)
    examples = [] if path is None else example_prompts(path)
    settings = options.pairs(engine_option, option="--engine-option")
    with listen(port) as address:
        engines = load_models(found, base=base, settings=settings, display=display)
        app = explore_app(engines, examples=examples, max_new_tokens=max_new_tokens)
        print_address(address.url, as_json=as_json)
        serve(app, address, open_page=not no_open)


def serve_labels(path: Path, measure: Measure, *, port: int, open_page: bool) -> None:
    """Serve the labelling page of a file of labels until Ctrl-C."""
    from derta.pipeline.labelling_session import LabelSession
    from derta.ui.label import label_app
    from derta.ui.server import listen, serve

    with listen(port) as address:
        print_address(address.url)
        serve(label_app(LabelSession(path, measure)), address, open_page=open_page)


def print_address(url: str, *, as_json: bool = False) -> None:
    """Print the address of a page at once, because the command does not end by itself."""
    from derta.cli.console import print_output

    print_output({"url": url}, f"{url} (Ctrl-C ends it)", as_json=as_json)
    sys.stdout.flush()
