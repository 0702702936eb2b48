"""What the commands do on a cluster; only `session` reaches its API server."""
