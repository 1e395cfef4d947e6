"""Graph substitutions, one file per family."""
