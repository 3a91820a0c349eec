from hypothesis import given
from hypothesis import strategies as st

from derta.judges.judge_prompts import _SPECIAL, defuse
from derta.judges.rubrics import _GUARD_LINES, _HARMBENCH_LINES

PIECES = [
    "<|",
    "|>",
    "[/INST]",
    "[INST",
    "]",
    "<",
    "/s>",
    "<</SYS>>",
    "\n",
    " ",
    "---",
    "Rules:",
    "<END ",
    "agent:",
    "x",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=80))
def test_no_marker_survives_defusing(text: str):
    for lines in (None, _HARMBENCH_LINES, _GUARD_LINES):
        broken = defuse(text, lines)
        assert not _SPECIAL.search(broken)
        assert lines is None or not lines.search(broken)
        assert [c for c in broken if not c.isspace() and c != "|"] == [c for c in text if not c.isspace() and c != "|"]
