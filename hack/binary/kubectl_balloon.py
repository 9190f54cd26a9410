"""This script is what the binary runs."""

import sys

from kubeballoon.cli.main import main

sys.exit(main())
