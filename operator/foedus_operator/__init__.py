"""The operator: the engine's loop on a real cluster, fed by kopf."""
