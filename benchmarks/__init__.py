"""Every figure that the documents quote, as a command: `make bench NAME=…`."""
