"""Tracking through a recording: what is written, and how an interrupted run goes on."""
