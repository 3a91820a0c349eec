"""Check the types of tensor functions, axes included, whenever a test calls them: imported before the modules are.

A module on the list imports every name of its annotations at run time, as beartype looks them up.
"""

from jaxtyping import install_import_hook

CHECKED = (
    "derta.engines.batching",
    "derta.engines.decoding",
    "derta.engines.hf_engine",
    "derta.engines.prefix_cache",
    "derta.engines.scoring",
    "derta.train.collator",
    "derta.train.cross_entropy",
    "derta.train.gradients",
    "derta.train.head",
    "derta.train.loss",
    "derta.train.tree_attention",
)

install_import_hook(CHECKED, "beartype.beartype")
