"""Demo: a synthetic world of crafts, some of them forbidden, to train and attack on a laptop in minutes."""
