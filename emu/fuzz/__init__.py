"""The search for divergences: layouts from a seed, steered by coverage."""
