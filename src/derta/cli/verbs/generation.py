"""Commands that write prompts and replies, and calibrate decoding: `attack`, `generate`, `threshold` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from derta.cli.verbs import options
from derta.cli.verbs.options import AsJson, EngineName, EngineOption, JudgePath, OptionalOut, Out, Prompts, Seed


def attack(
    name: str,
    requests: Annotated[Path, typer.Option(help="derta requests, HarmBench or JailbreakBench CSV, {question} rows.")],
    out: Out,
    fmt: Annotated[str, typer.Option("--format", help="Format of the requests file.")] = "auto",
    option: Annotated[list[str], typer.Option("--option", metavar="KEY=VALUE", help="Attack option.")] = [],
    seed: Seed = 0,
    target: Annotated[str | None, typer.Option(help="Model to attack, for searches such as pair.")] = None,
    target_engine: EngineName = "hf",
    target_option: EngineOption = [],
    attacker: Annotated[str | None, typer.Option(help="Model that writes prompts.")] = None,
    attacker_engine: EngineName = "hf",
    attacker_option: EngineOption = [],
    judge: Annotated[str | None, typer.Option(help="Judge that guides the search, such as harm.")] = None,
    judge_model: JudgePath = None,
    judge_engine: EngineName = "hf",
    judge_option: EngineOption = [],
    as_json: AsJson = False,
) -> None:
    """Craft attack prompts from requests.

    Search attacks (pair, escalation, multi_turn, autodan) query a --target model. They save their attempts to
    <out>.attempts.jsonl; an interrupted search resumes from there.

    Example: derta attack code_attack --requests requests.csv --option 'structures=[stack, list]' --out prompts.jsonl
    """
    from derta.cli.console import console_display, print_output
    from derta.pipeline.formatting import format_search
    from derta.pipeline.search import SearchModels, attack_file

    settings, display = options.pairs(option, option="--option"), console_display()
    models = SearchModels(
        options.engine_config(target, target_engine, target_option, option="--target-option"),
        options.engine_config(attacker, attacker_engine, attacker_option, option="--attacker-option"),
        judge,
        options.engine_config(judge_model, judge_engine, judge_option, option="--judge-option"),
    )
    summary = attack_file(
        name, settings, requests=requests, out=out, models=models, fmt=fmt, seed=seed, display=display
    )
    display.logger.info("%d prompts in %s", summary.prompts, out)
    if target is not None:
        for line in format_search(summary).splitlines():
            display.logger.info(line)
    print_output(summary.model_dump(), as_json=as_json)


def generate(
    model: Annotated[str, typer.Option(help="Model folder or hub id; api: model name on the server.")],
    prompts: Path,
    out: Out,
    engine: Annotated[str, typer.Option(help="hf, vllm (in-process) or api (OpenAI-compatible servers).")] = "hf",
    endpoints: Annotated[list[str], typer.Option("--endpoint", help="api: URL, such as http://host:8000/v1.")] = [],
    concurrency: Annotated[int | None, typer.Option(help="api: number of concurrent requests.")] = None,
    api_key_env: Annotated[str | None, typer.Option(help="api: environment variable with the API key.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="api: tokenizer for rendering prompts locally.")] = None,
    adapter: Annotated[str | None, typer.Option(help="hf: PEFT adapter folder.")] = None,
    template: Annotated[str | None, typer.Option(help="Chat template: auto, paper or a Jinja template.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Model dtype, such as bfloat16.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum number of new tokens per reply.")] = 1024,
    temperature: Annotated[float, typer.Option(min=0, help="Temperature of samples; 0: greedy decoding.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Probability of the nucleus that tokens are drawn from.")] = 1.0,
    num_samples: Annotated[int, typer.Option(min=1, help="Number of samples for each prompt.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples.")] = 0,
    max_batch_tokens: Annotated[int | None, typer.Option("--batch-tokens", min=1, help="hf: tokens per batch.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="hf: number of CPU threads.")] = None,
    refusal_threshold: Annotated[
        str | None,
        typer.Option(help="hf: probability at which a refusal word is forced, or file of derta threshold."),
    ] = None,
    option: Annotated[list[str], typer.Option("--option", metavar="KEY=VALUE", help="Additional engine setting.")] = [],
    shard_rows: Annotated[
        int | None,
        typer.Option(min=1, help="For long files: read prompts as needed, write a file for this many to folder --out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Generate replies to prompts: greedy by default, or samples with a --temperature.

    Replies are appended to the output file; run the command again to generate the missing ones, or more --num-samples.

    Example: derta generate prompts.jsonl --model models/derta --out replies.jsonl

    Example: derta generate million.jsonl --model derta --engine api --shard-rows 10000 --out replies
    """
    engine_options: dict[str, Any] = {
        **{"endpoints": endpoints or None, "concurrency": concurrency, "api_key_env": api_key_env},
        **{"tokenizer": tokenizer, "adapter": adapter, "template": template, "dtype": dtype},
        **{"max_batch_tokens": max_batch_tokens, "threads": threads},
        "refusal_threshold": options.number_or_path(refusal_threshold),
    }
    from derta.cli.console import console_display, print_output
    from derta.config import EngineConfig, sampling_settings
    from derta.pipeline.generate import generate_file

    settings = {name: value for name, value in engine_options.items() if value is not None}
    config = EngineConfig(model=model, engine=engine, settings=settings | options.pairs(option, option="--option"))
    sampling = sampling_settings(
        "derta generate", temperature=temperature, top_p=top_p, num_samples=num_samples, seed=seed
    )
    if shard_rows is not None:
        from derta.pipeline.streaming import generate_shards

        counts = generate_shards(
            prompts,
            model=config,
            out=out,
            max_new_tokens=max_new_tokens,
            rows=shard_rows,
            sampling=sampling,
            display=console_display(),
        )
        value = {"replies": str(out), "count": counts.replies, "unanswered": counts.unanswered}
        print_output(value | {"shards": counts.shards}, as_json=as_json)
        return
    replies = generate_file(
        prompts, model=config, out=out, max_new_tokens=max_new_tokens, sampling=sampling, display=console_display()
    )
    unanswered = sum(reply.unanswered is not None for reply in replies)
    print_output({"replies": str(out), "count": len(replies), "unanswered": unanswered}, as_json=as_json)


def threshold(
    model: Annotated[str, typer.Argument(help="Model folder or hub id.")],
    benign: Annotated[Path, typer.Option(help="Benign requests with answers that the model was not trained on.")],
    harmful: Annotated[Path | None, typer.Option(help="Requests with harmful answers: also print detections.")] = None,
    false_alarm: Annotated[float, typer.Option(help="Rate of false alarms on benign answers.")] = 0.01,
    per: Annotated[str, typer.Option(help="What the rate counts: reply or position.")] = "reply",
    by_depth: Annotated[bool, typer.Option("--by-depth", help="Calibrate a threshold for each depth.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of answers of each file.")] = None,
    adapter: Annotated[str | None, typer.Option(help="PEFT adapter folder.")] = None,
    engine_option: EngineOption = [],
    out: OptionalOut = None,
    as_json: AsJson = False,
) -> None:
    """Calibrate the refusal probability from which on decoding forces a refusal word.

    Prints the threshold with the exact interval of its false alarms, and a constant logit bias for servers. The file
    serves `derta generate --refusal-threshold`, Transformers and vLLM; it is refused for another model.

    Example: derta threshold models/derta --benign held_out.jsonl --false-alarm 0.01 --out threshold.json
    """
    from derta.cli.console import print_output
    from derta.pipeline.formatting import threshold_json, threshold_lines
    from derta.pipeline.threshold import calibrate_threshold_file

    settings = options.pairs(engine_option, option="--engine-option") | ({"adapter": adapter} if adapter else {})
    result = calibrate_threshold_file(
        model,
        benign=benign,
        harmful=harmful,
        out=out,
        false_alarm=false_alarm,
        per=per,
        by_depth=by_depth,
        limit=limit,
        **settings,
    )
    print_output(threshold_json(result), *threshold_lines(result), as_json=as_json)


def export(
    source: Annotated[Path, typer.Argument(help="Run folder, folder of one of its models, or a file of replies.")],
    out: Out,
    fmt: Annotated[str, typer.Option("--format", help="Output format: harmbench, jailbreakbench or inspect.")],
    judges: Annotated[
        list[str], typer.Option("--judge", help="Judge whose verdicts to export; inspect: all judges by default.")
    ] = [],
    cell: Annotated[str | None, typer.Option(help="Export only this attack or data set, such as prefill@50%.")] = None,
    pool: Annotated[bool, typer.Option("--pool", help="One file per model, not one per attack and data set.")] = False,
    model: Annotated[str | None, typer.Option(help="Model name in the exported file.")] = None,
    behaviors: Annotated[Path | None, typer.Option(help="jailbreakbench: its behaviors CSV.")] = None,
    attack_type: Annotated[
        str | None, typer.Option(help="jailbreakbench: white_box, black_box, transfer or manual.")
    ] = None,
    prompts: Prompts = None,
    as_json: AsJson = False,
) -> None:
    """Export replies and verdicts to another project's format.

    For a folder, --out is a folder that receives a folder per model, with a file per attack and data set (for inspect:
    a task).

    Example: derta export runs/gemma --format inspect --out logs
    """
    from derta.cli.console import console_display, print_output
    from derta.formats import export as write
    from derta.pipeline.older_verdicts import warn_of_older_verdicts

    display = console_display()
    paths = write(
        source,
        out,
        format=fmt,
        judges=judges,
        cell=cell,
        pool=pool,
        model=model,
        prompts=prompts,
        behaviors=behaviors,
        attack_type=attack_type,
    )
    warn_of_older_verdicts(source, judges=judges, display=display)
    for path in paths:
        display.logger.info(path)
    print_output({"files": [str(path) for path in paths]}, as_json=as_json)
