"""Pure: models in, manifests out."""
