import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from derta.config import RowConfig
from derta.data.encoding import EncodedExample
from derta.data.rows import Instance, draw_row
from derta.errors import DataError
from derta.train.dataset import MicroBatchSampler, RowDataset, StepSettings, balance, group_rows, split_evenly


def examples(lengths):
    """Helpful instances whose rows have the given numbers of tokens."""
    return [
        Instance("helpful", EncodedExample(f"e{i}", (5,), tuple(range(6, 5 + n))), False, i)
        for i, n in enumerate(lengths)
    ]


def dataset_of(lengths):
    return RowDataset(examples(lengths), config=RowConfig(max_length=512), seed=0)


def epoch_of(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return list(sampler)


def test_the_sampler_visits_every_instance_once_in_an_order_of_its_own_in_every_epoch():
    sampler = MicroBatchSampler(dataset_of([9] * 50), settings=StepSettings(micro_rows=4, micro_batches=2), seed=1)
    orders = []
    for epoch in (0, 1, 2):
        keys = [key for batch in epoch_of(sampler, epoch) for key in batch]
        assert {found for found, _ in keys} == {epoch}
        assert sorted(index for _, index in keys) == list(range(50))
        assert keys == [key for batch in sampler for key in batch]
        orders.append([index for _, index in keys])
    assert orders[0] != orders[1] != orders[2] != list(range(50))
    assert len(sampler) == len(list(sampler)) == 13


def test_the_order_follows_from_the_seed():
    def order(seed):
        return list(
            MicroBatchSampler(dataset_of([9] * 50), settings=StepSettings(micro_rows=8, micro_batches=1), seed=seed)
        )

    assert order(1) == order(1) != order(2)


@drawn(
    lengths=st.lists(st.integers(2, 90), min_size=1, max_size=60),
    settings=st.builds(
        StepSettings,
        micro_rows=st.integers(1, 5),
        micro_batches=st.integers(1, 4),
        num_processes=st.integers(1, 4),
        step_tokens=st.none() | st.integers(50, 600),
        grouping=st.sampled_from(["order", "tokens", "length"]),
    ),
)
def test_over_all_processes_every_row_is_trained_once_an_epoch_in_equally_many_micro_batches(lengths, settings):
    num_processes = settings.num_processes
    dataset = dataset_of(lengths)
    samplers = [MicroBatchSampler(dataset, settings=settings, seed=0, process_index=p) for p in range(num_processes)]
    taken = [epoch_of(sampler, 1) for sampler in samplers]
    assert {len(batches) for batches in taken} == {len(samplers[0])}
    assert sorted(index for batches in taken for batch in batches for _, index in batch) == list(range(len(lengths)))
    if settings.step_tokens is None and settings.grouping != "tokens":
        assert all(len(batch) <= settings.micro_rows for batches in taken for batch in batches)


@drawn(lengths=st.lists(st.integers(2, 90), min_size=20, max_size=60), grouping=st.sampled_from(["tokens", "length"]))
def test_grouping_a_step_into_micro_batches_changes_no_step(lengths, grouping):
    """The rows of a step are the same whether one process takes them or two, in whatever micro-batches."""

    def steps(num_processes, micro_batches, grouping):
        settings = StepSettings(8 // (num_processes * micro_batches), micro_batches, num_processes, None, grouping)
        dataset = dataset_of(lengths)
        by_process = [
            list(MicroBatchSampler(dataset, settings=settings, seed=0, process_index=p)) for p in range(num_processes)
        ]
        return [
            {key for batches in by_process for batch in batches[start : start + micro_batches] for key in batch}
            for start in range(0, len(by_process[0]), micro_batches)
        ]

    assert steps(1, 1, "order") == steps(1, 4, grouping) == steps(2, 2, grouping)


def test_a_step_of_tokens_holds_about_as_many():
    lengths = [10 + 7 * i % 80 for i in range(200)]
    settings = StepSettings(micro_rows=4, micro_batches=3, step_tokens=600, grouping="tokens")
    dataset = dataset_of(lengths)
    sampler = MicroBatchSampler(dataset, settings=settings, seed=0)
    for epoch in (0, 1):
        batches = epoch_of(sampler, epoch)
        tokens = [sum(dataset.length(*key) for key in batch) for batch in batches]
        steps = [sum(tokens[start : start + 3]) for start in range(0, len(tokens), 3)]
        assert max(steps) <= 600 + max(lengths)
        assert min(steps) >= 600 - 2 * max(lengths)


@drawn(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=40), groups=st.integers(1, 6))
def test_balanced_groups_differ_by_no_more_than_the_longest_row(lengths, groups):
    sums = [sum(lengths[i] for i in group) for group in balance(lengths, groups)]
    assert max(sums) - min(sums) <= max(lengths)
    assert sums == sorted(sums, reverse=True)


@drawn(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=40), parts=st.integers(1, 6))
def test_even_cuts_keep_the_order_and_every_row(lengths, parts):
    cut = list(split_evenly(range(len(lengths)), length=lambda i: lengths[i], parts=parts))
    assert len(cut) == parts
    assert [i for part in cut for i in part] == list(range(len(lengths)))


def test_rows_of_similar_length_are_grouped_by_length():
    lengths = [9, 90, 10, 80, 11, 85]
    shared = group_rows(list(range(6)), lengths=lengths, groups=2, micro_rows=3, grouping="length")
    assert [sorted(lengths[i] for i in group) for group in shared] == [[80, 85, 90], [9, 10, 11]]


def test_a_row_is_drawn_for_the_epoch_that_comes_with_the_index(small_data):
    given = small_data("derta")
    settings = RowConfig(max_length=128, sorry_dropout=0.5)
    dataset = RowDataset(given, config=settings, seed=3)
    assert len(dataset) == len(given)
    for epoch in (2, 0, 1):  # in any order
        expected = [draw_row(one, config=settings, seed=3, epoch=epoch) for one in given]
        assert [dataset[epoch, index] for index in range(len(given))] == expected
        assert [dataset.length(epoch, i) for i in range(len(given))] == [len(row.input_ids) for row in expected]
    assert dataset[4] == dataset[0, 4]


def test_tokenized_rows_and_instances_do_not_mix(small_data, some_rows):
    with pytest.raises(DataError, match="expected either tokenized rows or instances, got both"):
        RowDataset([*small_data("rto"), *some_rows], config=RowConfig(), seed=0)


def test_a_row_that_teaches_nothing_is_refused_before_it_reaches_a_batch():
    silent = Instance("helpful", EncodedExample("e", tuple(range(40)), ()), False, 0)
    with pytest.raises(DataError, match=r"row e \(helpful\): every label is masked"):
        RowDataset([silent], config=RowConfig(max_length=32), seed=0)[0, 0]


@drawn(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.data())
def test_rows_are_cut_into_steps_of_which_none_is_empty(lengths, data):
    parts = data.draw(st.integers(1, len(lengths)))
    cut = list(split_evenly(range(len(lengths)), length=lengths.__getitem__, parts=parts))
    assert len(cut) == parts
    assert all(cut)
    assert [row for part in cut for row in part] == list(range(len(lengths)))
