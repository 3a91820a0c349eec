"""Commands of the `derta` command line; the code behind a command is imported when it is called."""
