"""What fastcluster costs, beside its peers and beside the floor; README.md tells the method."""
