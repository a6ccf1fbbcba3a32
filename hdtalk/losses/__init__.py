"""Objectives of inversion, optimisation and stitching."""
