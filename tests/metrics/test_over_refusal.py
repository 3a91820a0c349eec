import pytest
from judged import prompt, verdict

from derta.metrics.over_refusal import over_refusal_cells
from derta.records import Reply, ReplyClass


def test_partial_refusals_are_counted_separately_from_full_ones():
    classes: list[tuple[ReplyClass, bool | None]] = [
        ("refuse", True), ("comply", False), ("refuse_then_comply", False), ("empty", None)
    ]  # fmt: skip
    judged = [
        (
            prompt(str(i), suite="over_refusal"),
            Reply(prompt_id=str(i), text="" if kind == "empty" else f"so {'sorry' if kind != 'comply' else ''}"),
            verdict(str(i), reply_class=kind, refused=refused),
        )
        for i, (kind, refused) in enumerate(classes)
    ]
    attacked = (prompt("a"), Reply(prompt_id="a", text="Sorry"), verdict("a", refused=True, reply_class="refuse"))
    cells = over_refusal_cells([*judged, attacked], method="m", seed=1, judge="refusal")
    by_measure = {cell.measure: (cell.name, cell.value, cell.scored, cell.unscored) for cell in cells}
    third = pytest.approx(1 / 3)
    assert by_measure == {
        "partly_refused": ("xstest", third, 3, 1),
        "complied": ("xstest", third, 3, 1),
        "says_sorry": ("xstest", pytest.approx(2 / 3), 3, 1),
    }
