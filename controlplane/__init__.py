"""The control plane: knows the cluster, and tells the gateways."""
