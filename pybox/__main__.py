"""`python -m pybox`."""

from pybox.cli.main import main

main()
