from hypothesis import settings

# What a test finds has to be found again: no clock decides, and no chance.
settings.register_profile("reproducible", deadline=None, derandomize=True, database=None)
settings.load_profile("reproducible")
