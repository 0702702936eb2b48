"""Model, data, local step, coordinator and client of federated training."""
