"""The weights that come along, and a command line about weight files."""
