from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripted_writers import STEPS, Scripts, scripts, values, write_config  # noqa: F401 - fixtures
from small_run import Derta


def test_triples_prints_counts_and_no_text(
    values: dict[str, Any],  # noqa: F811 - the fixture
    scripts: Scripts,  # noqa: F811
    tmp_path: Path,
    derta: Derta,
) -> None:
    config = write_config(tmp_path / "triples.yaml", values)
    called = derta("triples", config, "--out", tmp_path / "made")
    assert called.code == 0, called.err
    assert "3 triples in" in called.out
    assert "3 counter rows in" in called.out
    assert STEPS[:20] not in called.out + called.err
    assert "museum" not in called.out + called.err


def test_triples_counts_calls_as_json_and_takes_values_from_the_command_line(
    values: dict[str, Any],  # noqa: F811
    scripts: Scripts,  # noqa: F811
    tmp_path: Path,
    derta: Derta,
) -> None:
    config = write_config(tmp_path / "triples.yaml", values)
    called = derta(
        "triples", config, "--out", tmp_path / "made", "--dry-run", "--json", "--set", "harmful.form=[direct, prefill]"
    )
    assert [row["calls"] for row in json.loads(called.out)] == [9, 3, 3, 3]
    assert scripts.asked == []


def test_an_unknown_key_is_one_line_with_the_nearest_name(
    values: dict[str, Any],  # noqa: F811
    tmp_path: Path,
    derta: Derta,
) -> None:
    config = write_config(tmp_path / "triples.yaml", values)
    called = derta("triples", config, "--out", tmp_path / "made", "--set", "harmful.from=direct")
    assert called.code == 2
    assert called.err.count("\n") == 1
    assert "unknown key `harmful.from`; did you mean 'form'?" in called.err
