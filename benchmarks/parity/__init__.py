"""Compare our methods with their formulas, written out anew in numpy."""
