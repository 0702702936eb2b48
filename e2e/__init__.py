"""What runs on a whole Kubernetes: the cluster for the tests, and the tests that need one."""
