"""The Relax back end (TVM 0.27)."""
