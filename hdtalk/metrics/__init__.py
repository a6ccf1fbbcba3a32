"""Measures of the paper's section IV, one file each."""
