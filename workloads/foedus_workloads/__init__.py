"""What runs in the pods."""
