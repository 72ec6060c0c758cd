"""What stands in a folder of runs: listing, showing, comparing, exporting and clearing away."""
