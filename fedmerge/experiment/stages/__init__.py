"""The stages of an experiment: rounds, fine-tuning, pooled training, fusion, evaluation; their order."""
