"""Prompts, replies, and where they go: `attack`, `generate`, `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from derta.cli.verbs import options
from derta.cli.verbs.options import AsJson, EngineOption, JudgePath, Out, Prompts, Seed


def attack(
    name: str,
    requests: Annotated[Path, typer.Option(help="Our requests, HarmBench or JailbreakBench CSV, {question} rows …")],
    out: Out,
    fmt: Annotated[str, typer.Option("--format", help="How the file is read.")] = "auto",
    option: Annotated[list[str], typer.Option("--option", metavar="KEY=VALUE", help="A setting of the attack.")] = [],
    seed: Seed = 0,
    target: Annotated[
        str | None, typer.Option(help="pair, autodan and others that search: the model attacked.")
    ] = None,
    target_engine: Annotated[str, typer.Option(help="What runs the target: hf, vllm or api.")] = "hf",
    target_option: EngineOption = [],
    attacker: Annotated[str | None, typer.Option(help="The model that writes prompts.")] = None,
    attacker_engine: Annotated[str, typer.Option(help="What runs the attacker.")] = "hf",
    attacker_option: EngineOption = [],
    judge: Annotated[str | None, typer.Option(help="The judge that guides the search, such as harm.")] = None,
    judge_model: JudgePath = None,
    judge_engine: Annotated[str, typer.Option(help="What runs the judge's model.")] = "hf",
    judge_option: EngineOption = [],
    as_json: AsJson = False,
) -> None:
    """Turn requests into an attack's prompts.

    Those that search (pair, escalation, multi_turn, autodan) query a --target on the way; their attempts are kept in
    <out>.attempts.jsonl, and a search that was stopped resumes.

    Example: derta attack code_attack --requests requests.csv --option 'structures=[stack, list]' --out prompts.jsonl
    """
    from derta.cli.console import console_display, print_found
    from derta.cli.tables import format_search
    from derta.pipeline.search import Helpers, attack_file

    settings, display = options.pairs(option, option="--option"), console_display()
    helpers = Helpers(
        options.engine_config(target, target_engine, target_option, option="--target-option"),
        options.engine_config(attacker, attacker_engine, attacker_option, option="--attacker-option"),
        judge,
        options.engine_config(judge_model, judge_engine, judge_option, option="--judge-option"),
    )
    found = attack_file(
        name, settings, requests=requests, out=out, helpers=helpers, fmt=fmt, seed=seed, display=display
    )
    display.logger.info("%d prompts in %s", found.prompts, out)
    if target is not None:
        display.logger.info(format_search(found))
    print_found(found.model_dump(), as_json=as_json)


def generate(
    model: Annotated[str, typer.Option(help="A model folder or hub id; of a server: the name it knows the model by.")],
    prompts: Path,
    out: Out,
    engine: Annotated[str, typer.Option(help="hf (here), vllm (here, on accelerators) or api (a server).")] = "hf",
    endpoints: Annotated[
        list[str], typer.Option("--endpoint", help="api: a server's address, such as http://127.0.0.1:8000/v1.")
    ] = [],
    concurrency: Annotated[int | None, typer.Option(help="api: requests in flight at once.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="api: the environment variable that holds the key.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="api: the served model's, to render prompts here.")] = None,
    adapter: str | None = None,
    template: str | None = None,
    dtype: str | None = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 1024,
    max_batch_tokens: Annotated[
        int | None, typer.Option("--batch-tokens", min=1, help="hf: rows times tokens of a batch.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="hf: CPU threads.")] = None,
    option: Annotated[list[str], typer.Option("--option", metavar="KEY=VALUE", help="Another engine setting.")] = [],
) -> None:
    """Generate greedy replies to prompts.

    Replies are appended as they come; run it again to make those that are missing.

    Example: derta generate prompts.jsonl --model models/derta --out replies.jsonl
    """
    flags: dict[str, Any] = {
        **{"endpoints": endpoints or None, "concurrency": concurrency, "api_key_env": api_key_env},
        **{"tokenizer": tokenizer, "adapter": adapter, "template": template, "dtype": dtype},
        **{"max_batch_tokens": max_batch_tokens, "threads": threads},
    }
    from derta.cli.console import console_display
    from derta.config import EngineConfig
    from derta.pipeline.generate import generate_file

    given = {name: value for name, value in flags.items() if value is not None}
    config = EngineConfig(model=model, engine=engine, settings=given | options.pairs(option, option="--option"))
    generate_file(prompts, model=config, out=out, max_new_tokens=max_new_tokens, display=console_display())


def export(
    source: Annotated[Path, typer.Argument(help="A run's folder, or a file of replies.")],
    out: Out,
    fmt: Annotated[str, typer.Option("--format", help="harmbench, jailbreakbench or inspect.")],
    judges: Annotated[
        list[str], typer.Option("--judge", help="Whose verdicts go along; inspect takes all that there are.")
    ] = [],
    cell: Annotated[str | None, typer.Option(help="Only this attack's replies, such as prefill@50%.")] = None,
    model: Annotated[str | None, typer.Option(help="What the model is called there.")] = None,
    behaviors: Annotated[Path | None, typer.Option(help="jailbreakbench: its CSV of behaviours.")] = None,
    attack_type: Annotated[
        str | None, typer.Option(help="jailbreakbench: white_box, black_box, transfer or manual.")
    ] = None,
    prompts: Prompts = None,
) -> None:
    """Write replies and verdicts in another project's format.

    A run's folder gives one file for each model, in the folder that --out names.

    Example: derta export runs/gemma --format inspect --out logs
    """
    from derta.cli.console import console_display
    from derta.formats import export as write

    written = write(
        source,
        out,
        format=fmt,
        judges=judges,
        cell=cell,
        model=model,
        prompts=prompts,
        behaviors=behaviors,
        attack_type=attack_type,
    )
    console_display().logger.info("\n".join(map(str, written)))
