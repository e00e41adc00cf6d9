"""`python -m dbsam` is the command `dbsam`."""

import sys

from dbsam.cli.main import main

sys.exit(main())
