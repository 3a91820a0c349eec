"""Add a training method with a custom loss: move the hidden states of harmful text away from those of the base model.

    python examples/add_a_method.py --model org/base --triples triples.jsonl --examples helpful.jsonl --out rerouted

A method is one object. Its dataset has the rows of RTO, so the loss terms mark the positions of harmful text. Its loss
uses hidden states instead of logits, and the reference is the base model, with the adapters disabled. In a run:
`derta.run("recipe.yaml", out="runs/mine", methods={"rerouting": REROUTING})`, with `methods: [vanilla, rerouting]`.

Source: Zou et al., Improving Alignment and Robustness with Circuit Breakers, arXiv 2406.04313, algorithm 1, without
its coefficient schedule.
"""

import argparse

import torch
from accelerate.utils import extract_model_from_parallel
from peft import LoraConfig

import derta
from derta.data.rows import TERMS
from derta.train.loss import LabelLoss


def hidden_states(model, batch):
    """Return the last hidden states at the label positions, Float["label hidden"]."""
    inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
    output = model(**inputs, use_cache=False, output_hidden_states=True)
    return output.hidden_states[-1].flatten(0, 1)[batch["label_positions"]]


def rerouting_loss(model, batch):
    """Compute the loss: cosine similarity to the reference on harmful text, distance to the reference elsewhere."""
    with torch.no_grad(), extract_model_from_parallel(model).disable_adapter():
        reference = hidden_states(model, batch)
    states = hidden_states(model, batch)
    similarity = torch.cosine_similarity(states, reference, dim=-1).relu()
    losses = torch.where(batch["terms"] == TERMS.index("rto"), similarity, (states - reference).norm(dim=-1))
    sums = torch.zeros(len(TERMS), device=losses.device)
    return LabelLoss(
        loss=(losses * batch["weights"]).sum(),
        loss_sums=sums.index_add(0, batch["terms"], losses.detach()),
        counts=sums.index_add(0, batch["terms"], torch.ones_like(losses)),
    )


REROUTING = derta.Method(name="rerouting", dataset=derta.METHODS["rto"].dataset, loss=rerouting_loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model folder or hub id")
    parser.add_argument("--triples", required=True)
    parser.add_argument("--examples", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--helpful-per-safety", type=float, default=10.0)
    parser.add_argument("--max-steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()

    triples, examples = derta.load_triples(options.triples), derta.load_examples(options.examples)
    data = derta.prepare(triples, examples, helpful_per_safety=options.helpful_per_safety).training_set()
    trainer = derta.DertaTrainer(
        model=options.model,
        args=derta.DertaConfig(
            options.out,
            method=REROUTING,
            sorry_dropout=0.0,
            learning_rate=1e-4,
            global_batch_size=options.batch_size,
            per_device_train_batch_size=min(8, options.batch_size),
            max_steps=options.max_steps,
            logging_steps=1,
            bf16=True,
        ),
        triples=data.triples,
        examples=data.examples,
        peft_config=LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model()
    log = [entry for entry in trainer.state.log_history if "loss_rto" in entry]
    first, last = (entry["loss_rto"] for entry in (log[0], log[-1]))
    print(f"similarity on harmful text: {first:.3f} at the first step, {last:.3f} at the last")


if __name__ == "__main__":
    main()
