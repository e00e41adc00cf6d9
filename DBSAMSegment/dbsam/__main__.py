"""`python -m dbsam` is the command `dbsam`."""

import sys

from dbsam.cli import main

sys.exit(main())
