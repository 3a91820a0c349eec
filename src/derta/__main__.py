"""The command line as `python -m derta`."""

from derta.cli.main import main

if __name__ == "__main__":
    main()
