"""Hypothesis strategies and a pytest plugin for the test suites of other walkers.

Nothing is imported here: pytest loads the plugin in every project that shares its environment.
"""
