"""An experiment's configuration: read, checked against its cohort, with every fault in a sentence."""
