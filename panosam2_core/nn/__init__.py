"""Layers that SAM2 does not have, each identity-initialised where it joins SAM2's path."""
