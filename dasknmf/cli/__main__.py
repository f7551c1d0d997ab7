"""``python -m dasknmf.cli``."""

from dasknmf.cli import main

main()
