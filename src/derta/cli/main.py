"""Entry point of the `derta` command: one command per stage; `run` and `demo` run all of them."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from derta import __version__
from derta.cli.launch import is_launched, silence_libraries, silence_other_processes, wait_for_main_process_error
from derta.cli.terminal import escaped_terminal, exit_code_of
from derta.cli.verbs import about, asking, evaluation, gates, generation, publishing, training, triples, viewing
from derta.errors import DertaError, escape_hidden

LOGGER = logging.getLogger("derta")

app = typer.Typer(
    name="derta",
    help="Decoupled Refusal Training: fine-tune models to refuse at any position of a response, and evaluate them.",
    no_args_is_help=True,
    context_settings={"max_content_width": 120},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"derta {__version__}\n")
        raise typer.Exit


@app.callback()
def set_up(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors and results.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also print debug messages.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Set how much is printed to standard error."""
    if quiet and verbose:
        raise DertaError("expected one of --quiet and --verbose, got both; remove one")
    if quiet:
        silence_libraries()
    LOGGER.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO)


for verb in (
    training.demo,
    training.run,
    training.data,
    training.train,
    triples.triples,
    asking.evaluate,
    generation.attack,
    generation.generate,
    generation.threshold,
    generation.export,
    evaluation.judge,
    evaluation.label,
    evaluation.calibrate,
    evaluation.replay,
    evaluation.compare,
    evaluation.pairwise,
    evaluation.report,
    gates.frontier,
    gates.gate,
    viewing.view,
    about.check,
    about.schema,
    viewing.explore,
    publishing.publish,
):
    app.command()(verb)
app.command(name="fine-tune")(training.fine_tune)
app.command(name="list")(about.list_)


def _is_other_warning(record: logging.LogRecord) -> bool:
    """Return whether a bitsandbytes log record is not about the missing `kernels` package.

    On CPUs with AVX512-BF16 that package provides a kernel that 4-bit training must not use (`settle_four_bit`).
    """
    return "Failed to load CPU gemm_4bit_forward" not in str(record.msg)


def main() -> None:
    """Run the command line: a user error prints one line and exits with code 2; Ctrl-C exits with code 130."""
    # torch reads these on import: waiting threads sleep, and large tensors use huge pages (fewer page faults)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_other_warning)
    silence_other_processes()
    try:
        with escaped_terminal():
            sys.exit(exit_code_of(app))
    except DertaError as error:
        wait_for_main_process_error()
        sys.stderr.write(f"derta: {escape_hidden(' '.join(str(error).split()))}\n")
        sys.exit(2)
    except SystemExit as exit_request:
        if exit_request.code == 130 and not is_launched():  # typer's exit code of Ctrl-C
            sys.stderr.write("derta: interrupted; run the same command again to resume\n")
        raise


if __name__ == "__main__":  # torchrun and accelerate: -m derta.cli.main
    main()
