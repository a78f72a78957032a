"""The command line: one module for each command of ``mlh-driver``, of the same name."""
