"""`python -m robench` is the command line."""

import sys

from robench.cli.app import main

sys.exit(main())
