"""python -m dualml: the command line without the script."""

from .cli.main import main

if __name__ == "__main__":
    main()
