"""What people start: leaves of the tree, imported by nothing."""
