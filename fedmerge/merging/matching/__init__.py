"""Neuron matching."""
