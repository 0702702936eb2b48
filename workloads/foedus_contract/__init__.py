"""What the engine, the pods and the command line share: run specs, messages, results, exit codes, paths."""
