"""What xplayers costs and what its peers cost, measured in one run. See README.md."""
