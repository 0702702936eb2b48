"""A real three-node Kubernetes on one Linux machine, without a container engine or a registry.

Every node has a containerd, a kubelet, a kube-proxy, a network namespace, a mount namespace and cgroups of its own; the
control plane runs on the machine itself. `python -m e2e.cluster` is the command line, `e2e/README.md` the manual.
"""
