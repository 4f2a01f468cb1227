"""The command line: one module per command, imported by ``main``."""
