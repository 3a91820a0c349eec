"""Attack a model in memory, judge its replies, and compare two attacks on the same requests.

python examples/attack_and_judge_in_memory.py --model org/instruct --requests harmbench_test.csv
"""

import argparse

from transformers import AutoModelForCausalLM, AutoTokenizer

import derta


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model folder or hub id")
    parser.add_argument("--requests", required=True)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    options = parser.parse_args()

    model = AutoModelForCausalLM.from_pretrained(options.model, use_safetensors=True).eval()
    engine = derta.load_engine(model, tokenizer=AutoTokenizer.from_pretrained(options.model))
    requests = derta.load_requests(options.requests, limit=options.limit)

    refused = {}
    for attack in (derta.attacks.direct(), derta.attacks.completing()):
        prompts = attack.craft(requests)
        replies = list(engine.generate(prompts, max_new_tokens=options.max_new_tokens))
        refused[attack.name] = derta.judge(prompts, replies, "refusal")
        harmful = derta.judge(prompts, replies, "harm")
        rate = derta.rate(harmful, measure="harmful")
        print(f"{attack.name}: attack success {_format_rate(rate)} by the embedded harm judge")
        print(f"{attack.name}: refused {_format_rate(derta.rate(refused[attack.name], measure='refused'))}")


def _format_rate(rate: derta.Rate) -> str:
    if rate.value is None:
        return f"not scored ({rate.unscored} replies)"
    return f"{rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}] of {rate.scored}, {rate.unscored} unscored"


if __name__ == "__main__":
    main()
