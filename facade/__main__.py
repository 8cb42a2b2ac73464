"""`python -m crosswalk`, where the command isn't installed."""

import sys

from crosswalk.emu.cli.main import main

sys.exit(main())
