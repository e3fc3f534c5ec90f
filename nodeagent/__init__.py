"""The node agent: tells the control plane what runs on its host."""
