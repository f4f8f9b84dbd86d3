"""The command line: `main` and one module a verb. The only room that prints or exits."""
