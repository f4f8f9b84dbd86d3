"""`python -m lanemark` is the `lanemark` command."""

import sys

from lanemark.cli.main import main

sys.exit(main())
