"""`python -m emu.cli`, where the command isn't installed."""

import sys

from emu.cli.main import main

sys.exit(main())
