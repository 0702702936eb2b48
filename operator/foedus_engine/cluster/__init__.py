"""The cluster protocol, its embedded implementation, gathering and executing."""
