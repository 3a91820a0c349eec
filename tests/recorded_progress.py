"""A progress display that records its calls."""

from contextlib import contextmanager
from typing import NamedTuple


class RecordedProgress:
    """Progress display that records, by task, its total and the counts of completed items."""

    def __init__(self):
        self.tasks = {}

    @contextmanager
    def task(self, description, *, total):
        self.tasks[description] = [total]
        yield self.Task(self.tasks[description])

    class Task(NamedTuple):
        values: list

        def update(self, completed):
            self.values.append(completed)

        def set_total(self, total):
            self.values[0] = total
