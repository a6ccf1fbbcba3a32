"""Datasets and trainers."""
