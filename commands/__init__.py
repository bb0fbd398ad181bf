"""The command line: one file per subcommand, which parses, calls the core and shows."""
