"""The search for divergences: layouts made from a seed, steered by what has not been seen."""
