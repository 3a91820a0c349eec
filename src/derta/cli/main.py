"""`derta`: every verb is one stage; `run` and `demo` are all of them. A user's mistake is one line and exit code 2."""

from __future__ import annotations

import logging
import os
import sys

import typer

from derta.cli.launch import is_launched, let_main_process_fail_first, let_main_process_speak
from derta.cli.verbs import asking, judging, training
from derta.errors import DertaError, visible

app = typer.Typer(
    name="derta",
    help="Decoupled Refusal Training: tune open models to refuse at any position of an answer, and measure it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for verb in (
    training.demo,
    training.run,
    training.data,
    training.train,
    asking.attack,
    asking.generate,
    asking.export,
    judging.judge,
    judging.calibrate,
    judging.replay,
    judging.compare,
    judging.pairwise,
    judging.report,
):
    app.command()(verb)
app.command(name="fine-tune")(training.fine_tune)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Whether a word of bitsandbytes' is more than that it found no `kernels` package as PEFT imported it.

    The kernel it then lacks, on CPUs with AVX512-BF16, is one that 4-bit training must not use (`settle_four_bit`).
    """
    return "Failed to load CPU gemm_4bit_forward" not in str(record.msg)


def main() -> None:
    """The console script: one clear line and exit code 2 on a user's mistake, 130 on Ctrl-C."""
    # read when torch is loaded: waiting threads sleep, and large tensors come in large pages (fewer page faults)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_worth_telling)
    let_main_process_speak()
    try:
        app()
    except DertaError as error:
        let_main_process_fail_first()
        sys.stderr.write(f"derta: {visible(' '.join(str(error).split()))}\n")
        sys.exit(2)
    except SystemExit as leaving:
        if leaving.code == 130 and not is_launched():  # what typer makes of Ctrl-C, without a word
            sys.stderr.write("derta: stopped; run the same command again to go on\n")
        raise


if __name__ == "__main__":  # torchrun and accelerate: -m derta.cli.main
    main()
