"""Instances of a method from encoded triples and examples."""

from derta.data.rows import instances
from derta.methods import METHODS
from derta.methods.rows_methods import ROW_METHODS as OF_ROWS

ROW_METHODS = [method.name for method in OF_ROWS]


def instances_of(method, *, triples=(), examples=()):
    return instances(triples=triples, examples=examples, **METHODS[method].dataset.keywords)
