"""The command line: dualml train, dualml sample, dualml devices. The only package that imports typer."""
