"""Devices, files, metrics, time: everything that is not mathematics."""
