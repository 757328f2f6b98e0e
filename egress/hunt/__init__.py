"""Hunts: slow detectors over stored history. Their findings refuse nothing."""
