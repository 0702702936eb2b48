"""Clipping, quantisation and noise."""
