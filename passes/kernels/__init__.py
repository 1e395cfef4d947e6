"""TVM implementations of operators, one file per operator family."""
