"""Train a model on your own triples, and measure its refusal probability inside a harmful answer.

    python examples/train_on_your_triples.py --model org/base --triples triples.jsonl --examples helpful.jsonl --out out

`triples.jsonl` has rows of {"query", "safe", "harmful"}; `helpful.jsonl` has any format of `derta.load_examples`
(Alpaca, chat messages, ShareGPT, raw text). `--lora` trains an adapter.
"""

import argparse

import derta


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    of_rows = [name for name, method in derta.METHODS.items() if method.trains and method.trainer is None]
    parser.add_argument("--model", required=True, help="model folder or hub id")
    parser.add_argument("--triples", required=True)
    parser.add_argument("--examples", required=True)
    parser.add_argument("--counter", help="benign requests that look like harmful ones, answered; for balanced")
    parser.add_argument("--requests", help="evaluation requests, to exclude from training")
    parser.add_argument("--out", required=True)
    parser.add_argument("--method", default="derta", choices=sorted(of_rows))
    parser.add_argument("--helpful-per-safety", type=float, default=10.0, help="the paper's ratio is 10")
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lora", action="store_true")
    options = parser.parse_args()

    prepared = derta.prepare(
        derta.load_triples(options.triples),
        derta.load_examples(options.examples),
        requests=derta.load_requests(options.requests) if options.requests else (),
        counter=derta.load_examples(options.counter) if options.counter else (),
        held_out_requests=1,
        helpful_per_safety=options.helpful_per_safety,
    )
    print("\n".join(prepared.notes))
    data = prepared.training_set(triples_per_unit=derta.METHODS[options.method].triples_per_unit)

    peft_config = None
    if options.lora:
        from peft import LoraConfig

        peft_config = LoraConfig(r=96, lora_alpha=16, lora_dropout=0.05, target_modules="all-linear")
    trainer = derta.DertaTrainer(
        model=options.model,
        args=derta.DertaConfig(
            options.out,
            method=options.method,
            sorry_dropout=0.0 if options.lora else 0.95,  # the paper's choice for adapters and for full fine-tuning
            learning_rate=1e-4 if options.lora else 2e-5,
            global_batch_size=options.batch_size,
            per_device_train_batch_size=min(8, options.batch_size),
            max_steps=options.max_steps,
            bf16=True,
        ),
        triples=data.triples,
        examples=data.examples,
        counter_examples=data.counter,
        peft_config=peft_config,
    )
    trainer.train()
    trainer.save_model()

    engine = derta.load_engine(trainer.model, tokenizer=trainer.processing_class)
    attack = derta.attacks.direct()
    prompts = attack.craft(prepared.held_out_requests)
    answers = [request.harmful or "" for request in prepared.held_out_requests]
    for prompt, row in zip(prompts, engine.refusal_probability(prompts, answers), strict=True):
        print(f"{prompt.request}: refuses with p = {row[0]:.2f} at the start, {sum(row) / len(row):.2f} on average")


if __name__ == "__main__":
    main()
