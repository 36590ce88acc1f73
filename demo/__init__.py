"""Simulated hardware and the demonstration that runs the whole chain against it."""
