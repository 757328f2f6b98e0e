"""Hunts: detectors over hours and days of stored flows. Their findings refuse nothing."""
