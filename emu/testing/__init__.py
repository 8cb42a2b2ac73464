"""For other people's test suites: Hypothesis strategies, and a pytest plugin.

Nothing is imported here: pytest loads the plugin in every project that shares its environment.
"""
