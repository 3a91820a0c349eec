from types import SimpleNamespace

import pytest

from derta.errors import RunError
from derta.train.checkpoint_files import (
    FILE_LIST,
    check_checkpoint,
    delete_older,
    find_fault,
    record_files,
    save_checkpoint,
    step_of,
)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint-4"
    (folder / "optimizer_0").mkdir(parents=True)  # as FSDP's shards
    (folder / "optimizer_0/shard.distcp").write_bytes(bytes(range(256)))
    (folder / "model.safetensors").write_bytes(b"weights" * 9)
    (folder / "trainer_state.json").write_text("{}")
    record_files(folder)
    return folder


def test_a_checkpoint_without_changes_has_no_fault(checkpoint):
    assert find_fault(checkpoint) is None
    check_checkpoint(checkpoint, needs_optimizer=True)


@pytest.mark.parametrize("name", ["optimizer_0/shard.distcp", "model.safetensors", "trainer_state.json"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-1], "{name} has {less} of {size} bytes"),
        (lambda raw: b"", "{name} has 0 of {size} bytes"),
        (lambda raw: bytes(len(raw)), "{name} is damaged"),
        (lambda raw: raw[:-1] + b"\0\0", "{name} has {more} of {size} bytes"),
        (None, "{name} is missing"),
    ],
)
def test_a_truncated_zeroed_or_missing_file_is_named(checkpoint, name, damage, message):
    path = checkpoint / name
    size = path.stat().st_size
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    expected = message.format(name=name, size=size, less=size - 1, more=size + 1)
    assert find_fault(checkpoint) == expected
    with pytest.raises(RunError, match=f"checkpoint-4: expected a complete checkpoint, but it {expected}; resume from"):
        check_checkpoint(checkpoint, needs_optimizer=True)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", bytes(40)])
def test_a_damaged_list_of_files_is_a_fault(checkpoint, content):
    (checkpoint / FILE_LIST).write_bytes(content)
    assert find_fault(checkpoint) == f"{FILE_LIST} cannot be read"


def test_a_checkpoint_without_a_list_may_be_of_any_trainer_but_must_have_an_optimizer(checkpoint):
    (checkpoint / FILE_LIST).unlink()
    assert find_fault(checkpoint) == "was not completely written"
    check_checkpoint(checkpoint, needs_optimizer=True)
    (checkpoint / "optimizer_0").rename(checkpoint / "other")
    with pytest.raises(RunError, match="it has no optimizer state"):
        check_checkpoint(checkpoint, needs_optimizer=True)
    check_checkpoint(checkpoint, needs_optimizer=False)


@pytest.mark.parametrize(
    ("steps", "limit", "best", "remaining"),
    [
        ((2, 4), None, None, {2, 4, 5}),
        ((2, 4), 1, None, {5}),
        ((2, 3, 4), 2, None, {4, 5}),
        ((4, 6, 7), 2, None, {4, 5}),  # 6 and 7 are damaged, and training was resumed from 4
        ((6,), 1, None, {5}),
        ((2, 3, 4), 2, 2, {2, 5}),
        ((2, 3, 4), 1, 3, {3, 5}),
        ((2, 3, 4), 3, 5, {3, 4, 5}),
    ],
)
def test_the_newest_and_the_best_checkpoints_remain_and_later_steps_are_deleted_first(
    tmp_path, steps, limit, best, remaining
):
    for step in (*steps, 5):
        (tmp_path / f"checkpoint-{step}").mkdir()
    delete_older(
        tmp_path / "checkpoint-5", limit=limit, best=None if best is None else str(tmp_path / f"checkpoint-{best}")
    )
    assert {step_of(path) for path in tmp_path.iterdir()} == remaining


def test_an_older_checkpoint_is_deleted_only_after_the_new_one_is_recorded(tmp_path):
    from transformers import TrainingArguments

    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4/rest").touch()  # of a stopped process
    args = TrainingArguments(str(tmp_path), save_total_limit=1, report_to="none", use_cpu=True)
    state = SimpleNamespace(global_step=4, best_model_checkpoint=None)
    accelerator = SimpleNamespace(wait_for_everyone=lambda: None)
    trainer = SimpleNamespace(args=args, state=state, accelerator=accelerator, save_dtype=None)

    def write():
        assert args.save_total_limit is None
        assert not (tmp_path / "checkpoint-4").exists()
        (tmp_path / "checkpoint-4").mkdir()
        (tmp_path / "checkpoint-4/optimizer.pt").write_bytes(b"state")

    save_checkpoint(trainer, write, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    assert find_fault(tmp_path / "checkpoint-4") is None
    assert args.save_total_limit == 1
    assert '"save_total_limit": 1' in (tmp_path / "checkpoint-4/training_args.json").read_text()
