from functools import partial

import pytest
import torch
from one_step import FAMILIES, REFUSALS, SCALED, assert_close, gradients, our_step, stock_step
from peft import LoraConfig, get_peft_model
from torch import nn

from derta.data.rows import IGNORE, TERMS, TrainRow
from derta.data.tree import tree_of
from derta.train import loss as label_loss
from derta.train.collator import collate
from derta.train.cross_entropy import LabelCrossEntropy
from derta.train.head import Head
from derta.train.loss import model_inputs, use_label_loss
from tolerances import step_tolerance

pytestmark = pytest.mark.equality


@pytest.mark.parametrize("capacity", [0, 64, 256])
@pytest.mark.parametrize("name", [*FAMILIES, *SCALED])
def test_packed_rows_have_the_loss_and_gradients_of_the_stock_model_on_each_row_alone(
    model_of, some_rows, name, capacity
):
    stock_loss, stock_grads = stock_step(model_of(name), some_rows)
    found, grads = our_step(model_of(name), some_rows, capacity=capacity)
    assert float(found.loss.detach() / found.counts.sum()) == pytest.approx(stock_loss, rel=step_tolerance())
    assert_close(grads, stock_grads)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_tied_embeddings_get_the_gradients_of_both_their_uses(model_of, some_rows, name):
    tied = partial(model_of, name, tie_word_embeddings=True)
    model = tied()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    stock_loss, stock_grads = stock_step(tied(), some_rows)
    found, grads = our_step(tied(), some_rows)
    assert float(found.loss.detach() / found.counts.sum()) == pytest.approx(stock_loss, rel=step_tolerance())
    assert_close(grads, stock_grads)


def test_a_head_with_a_bias_gets_its_gradient(model_of, some_rows):
    def biased():
        model = model_of("llama")
        model.lm_head.bias = nn.Parameter(torch.linspace(-1, 1, 96))
        return model

    stock_loss, stock_grads = stock_step(biased(), some_rows)
    found, grads = our_step(biased(), some_rows)
    assert float(found.loss.detach() / found.counts.sum()) == pytest.approx(stock_loss, rel=step_tolerance())
    assert "lm_head.bias" in grads
    assert_close(grads, stock_grads)


@pytest.mark.parametrize("name", ["llama", "cohere"])
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["q_proj", "lm_head"]])
def test_lora_gets_the_stock_gradients_on_the_head_too(model_of, some_rows, monkeypatch, name, targets):
    def adapted(*, ours):
        model = model_of(name, tie_word_embeddings=False)
        if ours:
            use_label_loss(model, refusal_ids=REFUSALS)
        torch.manual_seed(1)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False)
        return get_peft_model(model, config)

    monkeypatch.setattr(label_loss, "MAX_CHUNK_BYTES", 2**19 * 9)
    stock_loss, stock_grads = stock_step(adapted(ours=False), some_rows)
    model = adapted(ours=True)
    batch = model_inputs(collate(some_rows, capacity=64, pad_id=0))
    found = model(**batch)
    (found.loss / found.counts.sum()).backward()
    assert float(found.loss.detach() / found.counts.sum()) == pytest.approx(stock_loss, rel=step_tolerance())
    assert all("lora" in name for name in gradients(model))
    assert_close(gradients(model), stock_grads)


@pytest.mark.parametrize("head_lora", [False, True])
def test_a_batch_without_labels_costs_nothing_and_teaches_nothing(model_of, some_rows, head_lora):
    model = model_of("llama")
    use_label_loss(model, refusal_ids=REFUSALS)
    if head_lora:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM"))
    batch = model_inputs(
        collate([row._replace(labels=[IGNORE] * len(row.labels)) for row in some_rows], capacity=64, pad_id=0)
    )
    found = model(**batch)
    found.loss.backward()
    assert float(found.loss.detach()) == 0
    assert found.counts.tolist() == [0] * len(TERMS)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)  # DDP waits for each of them
    assert all(not p.grad.any() for p in trained)


def test_each_term_is_counted_and_summed_apart(model_of, some_rows):
    rows = [*some_rows, *(some_rows[i]._replace(term=term) for i, term in enumerate(("completion", "counter")))]
    found, _ = our_step(model_of("llama"), rows)
    for index, term in enumerate(TERMS):
        of_term = [row for row in rows if row.term == term]
        alone, _ = stock_step(model_of("llama"), of_term)
        count = sum(label != IGNORE for row in of_term for label in row.labels)
        assert float(found.counts[index]) == count
        assert float(found.loss_sums[index]) == pytest.approx(alone * count, rel=step_tolerance())


@pytest.mark.parametrize("lora_head", [False, True])
def test_the_refusal_probability_is_that_of_all_refusal_tokens_on_rto_positions(model_of, some_rows, lora_head):
    def adapted(*, ours):
        model = model_of("gemma2", tie_word_embeddings=False)
        if ours:
            use_label_loss(model, refusal_ids=REFUSALS)
        if not lora_head:
            return model
        torch.manual_seed(1)
        config = LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM", init_lora_weights=False)
        return get_peft_model(model, config)

    found = adapted(ours=True)(**model_inputs(collate(some_rows, capacity=64, pad_id=0)))
    model = adapted(ours=False)
    expected = 0.0
    for row in (row for row in some_rows if row.term == "rto"):
        with torch.no_grad():
            probabilities = model(input_ids=torch.tensor([row.input_ids])).logits[0].softmax(dim=-1)
        for place, label in enumerate(row.labels):
            if label != IGNORE:
                expected += float(probabilities[place - 1, list(REFUSALS)].sum())
    assert float(found.refusal_sum) == pytest.approx(expected, rel=step_tolerance())


@pytest.mark.parametrize("lora_head", [False, True])
def test_term_weights_scale_the_loss_and_gradients_of_their_rows(model_of, some_rows, lora_head):
    def step(rows, weights):
        model = model_of("llama")
        use_label_loss(model, refusal_ids=REFUSALS)
        if lora_head:
            torch.manual_seed(1)
            config = LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM", init_lora_weights=False)
            model = get_peft_model(model, config)
        batch = collate(rows, capacity=64, pad_id=0, term_weights=weights)
        found = model(**model_inputs(batch))
        found.loss.backward()
        return found, gradients(model)

    found, grads = step(some_rows, (1.0, 0.5, 3.0, 1.0, 1.0))
    plain, _ = step(some_rows, (1.0,) * len(TERMS))
    weighted = float(plain.loss_sums @ torch.tensor([1.0, 0.5, 3.0, 1.0, 1.0]))
    assert float(found.loss.detach()) == pytest.approx(weighted, rel=step_tolerance())
    assert torch.allclose(found.loss_sums, plain.loss_sums, rtol=step_tolerance())  # logged unweighted
    trained = TERMS[:3]
    by_term = [step([row for row in some_rows if row.term == term], (1.0,) * len(TERMS))[1] for term in trained]
    summed = {name: by_term[0][name] + 0.5 * by_term[1][name] + 3 * by_term[2][name] for name in grads}
    assert_close(grads, summed)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_document_never_sees_the_others_in_its_sequence(model_of, some_rows, name):
    model = model_of(name)
    use_label_loss(model, refusal_ids=REFUSALS)

    def losses(rows):
        batch = collate(rows, capacity=1000, pad_id=0)
        assert len(batch["input_ids"]) == 1
        starts = [i for i, position in enumerate(batch["position_ids"][0].tolist()) if position == 0]
        found = []
        for start, end in zip(starts, [*starts[1:], batch["input_ids"].shape[1]], strict=True):
            chosen = (start <= batch["label_positions"]) & (batch["label_positions"] < end)
            learned = {key: batch[key][chosen] for key in ("label_positions", "targets", "terms", "weights")}
            with torch.no_grad():
                found.append(float(model(**(model_inputs(batch) | learned)).loss))
        return found

    longest = max(some_rows, key=lambda row: len(row.input_ids))
    changed = [
        row._replace(input_ids=[5 + (token + 1) % 90 for token in row.input_ids]) if row is longest else row
        for row in some_rows
    ]
    before, after = losses(some_rows), losses(changed)
    assert before[0] != after[0]  # the longest row stands first
    assert after[1:] == pytest.approx(before[1:], rel=step_tolerance())


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_bf16_autocast_stays_close_to_fp32(model_of, some_rows, name):
    exact, exact_grads = our_step(model_of(name), some_rows)
    model = model_of(name)
    use_label_loss(model, refusal_ids=REFUSALS)
    batch = model_inputs(collate(some_rows, capacity=64, pad_id=0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(**batch)
        loss = found.loss / found.counts.sum()
    loss.backward()
    assert found.loss.dtype == torch.float32
    assert float(found.loss.detach()) == pytest.approx(float(exact.loss), rel=0.05)
    ours = torch.cat([grad.flatten() for grad in gradients(model).values()])
    wanted = torch.cat([grad.flatten() for grad in exact_grads.values()])
    assert float(torch.nn.functional.cosine_similarity(ours, wanted, dim=0)) > 0.98


def test_gradient_checkpointing_changes_nothing(model_of, some_rows):
    _, grads = our_step(model_of("llama"), some_rows)
    model = model_of("llama").train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    _, recomputed = our_step(model, some_rows)
    assert_close(recomputed, grads)


def test_without_labels_the_stock_forward_answers(model_of):
    model, stock = model_of("llama"), model_of("llama")
    use_label_loss(model, refusal_ids=REFUSALS)
    ids = torch.arange(5, 12)[None]
    assert torch.equal(model(input_ids=ids).logits, stock(input_ids=ids).logits)
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape == (1, 10)


def test_the_stock_forward_gets_its_other_inputs(model_of):
    model, stock = model_of("gpt2"), model_of("gpt2")
    use_label_loss(model, refusal_ids=REFUSALS)
    ids = torch.arange(5, 12)[None]
    inputs = {"attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1, 1]]), "position_ids": torch.arange(7)[None] + 3}
    logits = model(input_ids=ids, **inputs).logits
    assert torch.equal(logits, stock(input_ids=ids, **inputs).logits)
    assert not torch.allclose(logits, stock(input_ids=ids).logits, atol=1e-3)


def test_a_model_that_is_patched_again_keeps_its_stock_forward(model_of, some_rows):
    model = model_of("llama")
    stock = model.forward
    found, _ = our_step(model, some_rows)
    use_label_loss(model, refusal_ids=(5,))
    assert model.forward.stock_forward == stock
    again = model(**model_inputs(collate(some_rows, capacity=64, pad_id=0)))
    assert float(again.loss.detach()) == pytest.approx(float(found.loss), rel=1e-6)
    assert float(again.refusal_sum) != pytest.approx(float(found.refusal_sum), rel=1e-3)  # the new refusal tokens


@pytest.mark.parametrize(
    ("lm_head", "vocab"), [(nn.Linear(8, 70), 70), (nn.Sequential(nn.Linear(8, 70)), 2**17)]
)  # 2**17: a head whose vocabulary is unknown
def test_the_logits_of_any_head_are_computed_in_chunks_that_fit_into_their_memory(monkeypatch, lm_head, vocab):
    monkeypatch.setattr(label_loss, "MAX_CHUNK_BYTES", 3 * vocab * 4)
    sizes = []
    handle = lm_head.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    targets = torch.arange(7)

    def losses(hidden):
        with torch.no_grad():
            return label_loss.label_losses(
                lm_head, hidden, targets[: len(hidden)], weights=torch.ones(len(hidden)),
                refusal_ids=torch.tensor(REFUSALS), head=Head(), patched=False,
            )  # fmt: skip

    hidden = torch.randn(7, 8)
    total, found, refusing, _ = losses(hidden)
    assert sizes == [3, 3, 1]
    monkeypatch.setattr(label_loss, "MAX_CHUNK_BYTES", 1)
    sizes.clear()
    assert torch.allclose(losses(hidden)[1], found, rtol=1e-5)
    assert sizes == [1] * 7
    handle.remove()
    with torch.no_grad():
        log_probs = lm_head(hidden).log_softmax(dim=-1)
    assert torch.allclose(found, -log_probs[torch.arange(7), targets], rtol=1e-5)
    assert torch.allclose(refusing, log_probs[:, list(REFUSALS)].exp().sum(dim=1), rtol=1e-5)
    assert float(total) == pytest.approx(float(found.sum()))


def test_the_head_computes_in_the_dtype_of_autocast_and_otherwise_in_that_of_the_hidden_states(model_of):
    model = model_of("llama")
    use_label_loss(model, refusal_ids=REFUSALS)
    hidden, targets = torch.randn(7, model.config.hidden_size), torch.arange(7)
    inputs = {"weights": torch.ones(7), "refusal_ids": torch.tensor(REFUSALS)}
    weight = model.lm_head.weight.detach()

    def losses(dtype):
        values = (targets, *inputs.values(), Head(), dtype, None)
        return LabelCrossEntropy.apply(hidden, weight, None, *values)[1]

    assert torch.equal(model.lm_head(hidden, labels=targets, **inputs)[1], losses(torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.lm_head(hidden, labels=targets, **inputs)[1]
    assert torch.equal(found, losses(torch.bfloat16))
    assert not torch.equal(found, losses(torch.float32))


def test_a_tree_has_the_losses_and_counts_of_its_rows(model_of, some_rows):
    rto = max((row for row in some_rows if row.term == "rto"), key=lambda row: len(row.input_ids))
    safe = TrainRow("s", "safe", [*rto.input_ids[:9], 7, 8, 9], [IGNORE] * 9 + [7, 8, 9])
    rows = [rto, rto, safe, safe, TrainRow("t", "safe", [*rto.input_ids[:3], 6, 8], [IGNORE] * 3 + [6, 8])]
    separate, grads = our_step(model_of("llama"), rows)
    merged, tree_grads = our_step(model_of("llama"), [tree_of(rows)])
    assert merged.counts.tolist() == separate.counts.tolist()
    assert torch.allclose(merged.loss_sums, separate.loss_sums, rtol=step_tolerance())
    assert float(merged.loss) == pytest.approx(float(separate.loss), rel=step_tolerance())
    assert float(merged.refusal_sum) == pytest.approx(float(separate.refusal_sum), rel=step_tolerance())
    assert_close(tree_grads, grads)


@pytest.mark.parametrize("lora_head", [False, True])
@pytest.mark.parametrize("margin", [None, 0.02])
def test_a_set_of_targets_has_the_same_loss_in_trees_and_bins_and_that_of_plain_torch(
    model_of, some_rows, lora_head, margin
):
    def step(rows, **settings):
        model = model_of("llama")
        use_label_loss(model, refusal_ids=REFUSALS)
        if lora_head:
            torch.manual_seed(1)
            config = LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM", init_lora_weights=False)
            model = get_peft_model(model, config)
        found = model(**model_inputs(collate(rows, pad_id=0, rto_margin=margin, **settings)))
        found.loss.backward()
        logits = [model(input_ids=torch.tensor([row.input_ids])).logits[0].detach() for row in rows[:2]]
        return found, gradients(model), logits

    def as_set(row):
        others = {place: tuple({*REFUSALS} - {label}) for place, label in enumerate(row.labels) if label != IGNORE}
        return row._replace(alternatives=others)

    sets = [as_set(row) for row in some_rows if row.term == "rto"]
    helpful = [row for row in some_rows if row.term == "helpful"]
    found, grads, logits = step([*sets[:2], *helpful], capacity=64)
    padded, padded_grads, _ = step([*sets[:2], *helpful], capacity=0)
    merged, tree_grads, _ = step([*helpful, tree_of([sets[0]]), sets[1]], capacity=64)
    for other, other_grads in ((padded, padded_grads), (merged, tree_grads)):
        assert float(other.loss.detach()) == pytest.approx(float(found.loss.detach()), rel=step_tolerance())
        assert torch.allclose(other.loss_sums, found.loss_sums, rtol=step_tolerance())
        assert_close(other_grads, grads)
    expected, pushed = 0.0, []
    for row, scores in zip(sets[:2], logits, strict=True):
        at_labels = scores.softmax(dim=-1)[[place - 1 for place, label in enumerate(row.labels) if label != IGNORE]]
        probabilities = at_labels[:, list(REFUSALS)].sum(dim=1)
        losses = -probabilities.log() * (probabilities < (margin or 2))
        pushed += (losses > 0).tolist()
        expected += float(losses.sum())
    assert all(pushed) == (margin is None)
    assert any(pushed)
    assert float(found.loss_sums[TERMS.index("rto")]) == pytest.approx(expected, rel=step_tolerance())


def test_what_serves_messages_and_the_divisor_is_no_input_of_the_model(some_rows):
    batch = collate(some_rows, capacity=64, pad_id=0)
    assert set(batch) - set(model_inputs(batch)) == {"row_ids", "items"}


class DoubledHead(nn.Linear):
    """A head of a class of its own, as adapters and quantization have."""

    def forward(self, input):
        return 2 * super().forward(input)


def test_a_head_of_another_class_computes_its_own_logits(model_of, some_rows):
    def doubled():
        model = model_of("llama", tie_word_embeddings=False)
        model.lm_head.__class__ = DoubledHead
        return model

    stock_loss, stock_grads = stock_step(doubled(), some_rows)
    found, grads = our_step(doubled(), some_rows)
    assert float(found.loss / found.counts.sum()) == pytest.approx(stock_loss, rel=step_tolerance())
    assert_close(grads, stock_grads)
