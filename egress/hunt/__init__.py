"""Hunts: slow detectors over stored flows. Their findings refuse nothing."""
