"""Weights that ship with HDTalk: one folder per bundle (see README.md)."""
