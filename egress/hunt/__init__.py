"""Looking back: slow detectors over stored history, whose findings refuse nothing."""
