"""The command line and Python SDK of Foedus."""
