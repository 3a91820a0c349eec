"""Clauses of written policies, and the policies that are refused in one line."""

from pathlib import Path

import pytest

from derta.data.policy import Clause, read_clauses
from derta.errors import DataError

MARKDOWN = """# Our policy

We help with everything else.

## Locks
No picking of locks,
at home or elsewhere.

## Paint
These are forbidden:

- **Stolen paint**: how to take it.
  Also brushes.
  - rollers too
- Paint on trains

1. Paint on boats.
2) Paint on kites.

## Roots ##
"""


def clauses_of(folder: Path, text: str, name: str = "policy.md") -> list[Clause]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_clauses(path)


def test_list_items_and_headings_without_any_are_clauses(tmp_path):
    assert clauses_of(tmp_path, MARKDOWN) == [
        Clause("locks", "Locks: No picking of locks, at home or elsewhere."),
        Clause("stolen-paint", "Stolen paint: how to take it. Also brushes. rollers too"),
        Clause("paint-on-trains", "Paint on trains"),
        Clause("paint-on-boats", "Paint on boats."),
        Clause("paint-on-kites", "Paint on kites."),
        Clause("roots", "Roots"),
    ]


def test_yaml_has_an_id_and_a_clause_each(tmp_path):
    text = "- {id: locks, clause: No picking.}\n- id: paint\n  clause: |\n    No paint\n    at all.\n"
    assert clauses_of(tmp_path, text, "policy.yaml") == [
        Clause("locks", "No picking."),
        Clause("paint", "No paint at all."),
    ]


def test_clauses_with_the_same_first_words_have_different_ids(tmp_path):
    found = clauses_of(tmp_path, "- Paint: on trains\n- Paint: on boats\n* 油漆\n")
    assert [one.id for one in found] == ["paint", "paint-2", "油漆"]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "p.md", "expected a policy with clauses, got none; write each as a list item"),
        ("Be good.\n", "p.txt", "expected a policy with clauses, got none"),
        ("- Paint.\n- Boats.\n- paint\n", "p.md", "line 3: expected each clause once, got that of line 1 again"),
        ("- Paint.\n-\n", "p.md", "line 2: expected a clause, got an empty list item"),
        ("## \n", "p.md", "line 1: expected a clause, got an empty heading"),
        (f"- {'a' * 4001}\n", "p.md", "line 1: expected a clause of at most 4000 characters, got 4001"),
        ("- {id: a, clause: Paint}\n- {id: a, clause: Boats}\n", "p.yaml", "clause 2: expected each id once, got 'a'"),
        ("- {id: a, clause: ''}\n", "p.yaml", "clause 1: expected an id and a clause, got an empty text"),
        ("- {id: a, rule: Paint}\n", "p.yml", "clause 1: expected the keys id and clause, got .*rule"),
        ("id: a\n", "p.yaml", "expected a list of {id, clause}, got another kind"),
        ("[", "p.yaml", "expected a list of {id, clause} in YAML"),
    ],
)
def test_a_policy_that_cannot_be_used_is_one_line(tmp_path, text, name, message):
    with pytest.raises(DataError, match=message) as caught:
        clauses_of(tmp_path, text, name)
    assert "\n" not in str(caught.value)
