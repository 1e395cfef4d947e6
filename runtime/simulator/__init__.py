"""Devices that exist as files: a policy's hour passes in seconds, and the truth is known afterwards."""
