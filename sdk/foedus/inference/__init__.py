"""Private inference from the command line and from Python."""
